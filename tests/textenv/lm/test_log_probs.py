"""Teacher-forced scoring gives what transformers' own logits give, in one pass and in chunks."""

from __future__ import annotations

import math

import pytest
import torch

import textenv.lm.log_probs as scoring
from textenv.lm.decoder import Decoder
from textenv.lm.log_probs import Sampling, response_states, token_log_probs
from textenv.lm.parts import split
from textenv.lm.responses import Responses
from textenv.lm.shared_prompts import by_length

ARCHITECTURES = ["llama", "gpt2", "qwen3", "gpt_neox", "opt", "gemma2"]
PROMPT_LENGTHS = torch.tensor([2, 5, 3])
RESPONSE_LENGTHS = torch.tensor([4, 1, 6])
MASK = torch.arange(6) < RESPONSE_LENGTHS[:, None]


@pytest.fixture
def rows():
    """Three rows of prompt and response; what lies behind a row's end is arbitrary."""
    return torch.randint(3, 200, (3, 12), generator=torch.Generator().manual_seed(0))


def responses(rows):
    return rows.gather(1, PROMPT_LENGTHS[:, None] + torch.arange(6))


def own_log_probs(model, rows, temperature=1.0, banned=()):
    """By the definition: a plain pass for each row, its logits, their log-softmax, each token."""
    log_probs = []
    for ids, prompt, response in zip(rows, PROMPT_LENGTHS, RESPONSE_LENGTHS, strict=True):
        logits = model(input_ids=ids[: prompt + response][None]).logits[0].float() / temperature
        for token in banned:
            logits[:, token] = -math.inf
        every = logits.log_softmax(-1)
        log_probs += [every[c - 1, ids[c]] for c in range(prompt, prompt + response)]
    return torch.stack(log_probs)


def scored(model, rows, sampling=None, entropy=False):
    body, head = split(model)
    hidden = response_states(body, Responses(rows, PROMPT_LENGTHS, MASK))
    sampling = sampling or Sampling()
    return token_log_probs(head, hidden, responses(rows)[MASK], sampling, entropy)


def count_logits(model):
    """How many rows the model's head is fed at each of its passes from now on."""
    sizes = []
    model.get_output_embeddings().register_forward_hook(
        lambda module, args, output: sizes.append(len(output))
    )
    return sizes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probs_are_those_of_the_full_forward(architecture, make_model, rows):
    model = make_model(architecture)
    log_probs, entropies = scored(model, rows)
    assert log_probs.shape == (11,) and log_probs.dtype == torch.float32 and entropies is None
    torch.testing.assert_close(log_probs, own_log_probs(model, rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scoring_agrees_with_decoding(architecture, make_model, rows):
    model = make_model(architecture)
    sampling = Sampling(temperature=0.7, banned_tokens=(0, 1))
    decoder = Decoder(model, num_rows=3, max_length=12)
    stepwise = torch.zeros(3, 6)
    for step in range(6):
        taken = RESPONSE_LENGTHS.clamp(max=step)  # rows that have ended wait
        logits, _ = decoder.next(rows, PROMPT_LENGTHS + taken)
        every = sampling.apply(logits).log_softmax(-1)
        stepwise[:, step] = every.gather(1, responses(rows)[:, step : step + 1])[:, 0]
    log_probs, _ = scored(model, rows, sampling)
    torch.testing.assert_close(log_probs, stepwise[MASK], rtol=1e-4, atol=1e-4)


def test_temperature_and_bans_shape_the_distribution(make_model, rows):
    model = make_model()
    banned = [token for token in range(3) if token not in rows]
    log_probs, _ = scored(model, rows, Sampling(2.5, tuple(banned)))
    wanted = own_log_probs(model, rows, temperature=2.5, banned=banned)
    torch.testing.assert_close(log_probs, wanted, rtol=1e-4, atol=1e-4)
    assert (log_probs - scored(model, rows)[0]).abs().max() > 0.1


def test_gradients_are_those_of_the_full_forward(make_model, rows):
    model = make_model()
    weights = torch.linspace(-1, 2, 11)
    (scored(model, rows)[0] * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    (own_log_probs(model, rows) * weights).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            gradients[name], parameter.grad, rtol=1e-3, atol=1e-4, msg=f"gradient of {name}"
        )


@pytest.mark.parametrize("chunk", [1, 3, 4, 10])
def test_chunks_change_neither_values_nor_gradients(chunk, make_model, rows, monkeypatch):
    model = make_model("gemma2")
    sampling = Sampling(temperature=0.7, banned_tokens=(0,))

    def values_and_gradients():
        model.zero_grad()
        log_probs, entropies = scored(model, rows, sampling, entropy=True)
        (log_probs.sum() + 0.3 * entropies.square().sum()).backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        return log_probs.detach(), entropies.detach(), gradients

    whole = values_and_gradients()
    vocabulary = model.config.vocab_size
    sizes = count_logits(model)
    monkeypatch.setattr(scoring, "CHUNK_ELEMENTS", chunk * vocabulary + 1)
    in_chunks = values_and_gradients()
    assert max(sizes) == chunk and len(sizes) > 11 / chunk
    for part, wanted in zip(in_chunks, whole, strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-4, atol=1e-4)


def test_the_body_runs_once_and_no_further_than_the_last_scored_column(
    make_model, rows, count_passes
):
    model = make_model()
    shapes = count_passes(model)
    scored(model, rows)
    assert shapes == [(3, 8)]  # row 2 ends at column 3 + 6 - 1, which is predicted but never read


def test_no_logits_are_worked_out_off_the_mask(make_model, rows):
    model = make_model()
    sizes = count_logits(model)
    scored(model, rows)
    assert sizes == [1, 11]  # one row to learn the vocabulary's size, then the 11 scored tokens


# --- by hand ------------------------------------------------------------------------------------


def identity(hidden):
    return hidden


def test_log_probs_and_entropies_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    log_probs, entropies = token_log_probs(
        identity, logits, torch.tensor([1, 0]), Sampling(), entropy=True
    )
    assert log_probs.tolist() == pytest.approx([math.log(0.75), math.log(0.5)])
    of_three_quarters = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert entropies.tolist() == pytest.approx([of_three_quarters, math.log(2)])


def test_a_temperature_of_a_half_squares_the_odds():
    logits = torch.tensor([[0.0, math.log(3.0)]])
    log_probs, _ = token_log_probs(identity, logits, torch.tensor([1]), Sampling(0.5))
    assert log_probs.exp().item() == pytest.approx(0.9)


def test_banned_tokens_have_no_probability_and_leave_the_entropy_finite():
    hidden = torch.tensor([[0.0, math.log(3.0), 50.0]], requires_grad=True)
    sampling = Sampling(banned_tokens=(2,))
    log_probs, entropies = token_log_probs(
        identity, hidden, torch.tensor([1]), sampling, entropy=True
    )
    assert log_probs.item() == pytest.approx(math.log(0.75))
    assert entropies.item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    (log_probs + 10 * entropies).sum().backward()
    assert hidden.grad.isfinite().all()
    assert hidden.grad[0, 2] == 0
    banned, _ = token_log_probs(identity, hidden.detach(), torch.tensor([2]), sampling)
    assert banned.item() == -math.inf


def test_logits_beyond_the_vocabulary_are_dropped():
    logits = torch.tensor([[0.0, math.log(3.0), 50.0]])
    sampling = Sampling().limited_to(2)
    log_probs, _ = token_log_probs(identity, logits, torch.tensor([1]), sampling)
    assert sampling.apply(logits).shape == (1, 2)
    assert log_probs.exp().item() == pytest.approx(0.75)


def test_the_log_softmax_is_float32_whatever_the_logits_are():
    logits = torch.linspace(-3, 3, 7).to(torch.bfloat16)[None]
    log_probs, entropies = token_log_probs(
        identity, logits, torch.tensor([3]), Sampling(), entropy=True
    )
    assert log_probs.dtype == entropies.dtype == torch.float32
    assert log_probs.item() == pytest.approx(logits.float().log_softmax(-1)[0, 3].item(), abs=1e-6)


def test_sampling_never_writes_into_the_logits():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    Sampling(temperature=2.0, banned_tokens=(1,)).apply(logits)
    Sampling(banned_tokens=(1,)).apply(logits)
    assert logits.tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature):
    with pytest.raises(
        ValueError, match=rf"temperature={temperature} must be above 0; .* deterministic=True"
    ):
        Sampling(temperature=temperature)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_many_rows_of_different_lengths_are_scored_in_their_own_places(architecture, make_model):
    """In several passes, with rows that count only in part or not at all."""
    model = make_model(architecture)
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(2, 200, (90, 24), generator=generator)
    prompts = torch.randint(1, 5, (90,), generator=generator)
    lengths = torch.randint(0, 20, (90,), generator=generator)  # 0: nothing counts
    mask = torch.arange(20) < lengths[:, None]
    mask &= torch.rand(90, 20, generator=generator) < 0.8
    body, _ = split(model)
    together = body(input_ids=ids, use_cache=False).last_hidden_state
    rows, steps = mask.nonzero(as_tuple=True)
    expected = together[rows, prompts[rows] + steps - 1]
    found = response_states(body, Responses(ids, prompts, mask))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_passes_have_rows_of_similar_length():
    lengths = torch.tensor([3, 40, 0, 39, 10, 38, 9, 41, 10, 3] * 10)
    passes = list(by_length(lengths))
    rows = torch.cat([rows for rows, _ in passes])
    assert sorted(rows.tolist()) == [i for i, length in enumerate(lengths) if length > 0]
    assert [width for _, width in passes] == [41, 10, 3]
    assert all(lengths[rows].max() == width for rows, width in passes)
    few = list(by_length(torch.tensor([9, 2, 1])))  # too few tokens for a pass of their own
    assert len(few) == 1 and few[0][1] == 9


def test_what_has_another_shape_than_the_mask_is_refused():
    responses = Responses(torch.ones(2, 9, dtype=torch.int64), torch.tensor([2, 3]), MASK[:2, :3])
    with pytest.raises(ValueError, match=r"shape \(2, 5\), but the mask \(2, 3\)"):
        responses.counted(torch.zeros(2, 5))
