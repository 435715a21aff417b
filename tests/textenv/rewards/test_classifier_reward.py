"""A sequence-classification model scores each text as its own logits say."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import transformers
from tokenizers import processors

from textenv.episode import Episode
from textenv.rewards import RewardError, score_episodes
from textenv.rewards.classifier_reward import ClassifierReward

# The ids of some words in the fixture `tokenizer`.
CLS, GOOD, BAD, SEA, SKY, WRITE, IT = 2, 3, 4, 5, 6, 7, 9
FULL_IDS = [
    [CLS, WRITE, SEA, GOOD],
    [CLS, WRITE, SEA, BAD, SKY, IT],
    [CLS, WRITE, SEA],
]


def make_gpt2(pad_token_id):
    torch.manual_seed(0)
    return transformers.GPT2ForSequenceClassification(
        transformers.GPT2Config(
            vocab_size=10,
            n_positions=8,
            n_embd=16,
            n_layer=1,
            n_head=2,
            initializer_range=1.0,
            num_labels=1,
            pad_token_id=pad_token_id,
            bos_token_id=2,
            eos_token_id=2,
        )
    ).eval()


@torch.no_grad()
def logits_of(model, *ids):
    """The logits of a single text, without padding."""
    return model(torch.tensor([ids])).logits[0].double()


def test_the_default_is_the_probability_of_positive_of_the_full_text(
    tokenizer, episodes, make_bert
):
    model = make_bert()
    expected = [logits_of(model, *ids).softmax(-1)[1].item() for ids in FULL_IDS]
    assert len({round(score, 4) for score in expected}) == 3  # Mixed-up texts would be noticed.
    scores = score_episodes(ClassifierReward(model, tokenizer), episodes)
    assert scores == pytest.approx(expected, abs=1e-6)


def test_the_response_alone(tokenizer, episodes, make_bert):
    model = make_bert()
    expected = [logits_of(model, CLS, *ids[3:]).softmax(-1)[1].item() for ids in FULL_IDS]
    scores = score_episodes(ClassifierReward(model, tokenizer, text="response"), episodes)
    assert scores == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "label", "index"),
    [
        (("NEGATIVE", "POSITIVE", "NEUTRAL"), None, 1),
        (("positive", "negative"), None, 0),
        (("toxic", "fine"), None, 1),
        (("toxic", "fine"), "toxic", 0),
        (("toxic", "fine"), 0, 0),
    ],
)
def test_the_label(labels, label, index, tokenizer, episodes, make_bert):
    model = make_bert(labels)
    expected = [logits_of(model, *ids).softmax(-1)[index].item() for ids in FULL_IDS]
    scores = score_episodes(ClassifierReward(model, tokenizer, label), episodes)
    assert scores == pytest.approx(expected, abs=1e-6)


def test_the_logit_of_a_label(tokenizer, episodes, make_bert):
    model = make_bert()
    expected = [logits_of(model, *ids)[2].item() for ids in FULL_IDS]
    reward = ClassifierReward(model, tokenizer, label="NEUTRAL", activation="logit")
    assert score_episodes(reward, episodes) == pytest.approx(expected, abs=1e-5)


def test_labels_that_do_not_exclude_each_other_have_sigmoids(tokenizer, episodes, make_bert):
    model = make_bert(("toxic", "rude"), problem_type="multi_label_classification")
    expected = [logits_of(model, *ids)[1].sigmoid().item() for ids in FULL_IDS]
    scores = score_episodes(ClassifierReward(model, tokenizer), episodes)
    assert scores == pytest.approx(expected, abs=1e-6)


def test_a_single_label_gives_its_logit_or_sigmoid(tokenizer, episodes, make_bert):
    model = make_bert(("reward",))
    logits = torch.cat([logits_of(model, *ids) for ids in FULL_IDS])
    scores = score_episodes(ClassifierReward(model, tokenizer), episodes)
    assert scores == pytest.approx(logits.tolist(), abs=1e-5)
    scores = score_episodes(ClassifierReward(model, tokenizer, activation="probability"), episodes)
    assert scores == pytest.approx(logits.sigmoid().tolist(), abs=1e-6)


@pytest.mark.parametrize("pad_token_id", [None, 0, 5])
def test_padding_does_not_change_the_score_of_a_model_built_on_a_decoder(
    pad_token_id, tokenizer, episodes
):
    # The model looks for its config's padding token, whatever the tokenizer pads with.
    model = make_gpt2(pad_token_id)
    expected = [logits_of(model, *ids).item() for ids in FULL_IDS]
    assert len({round(score, 4) for score in expected}) == 3
    scores = score_episodes(ClassifierReward(model, tokenizer), episodes)
    assert scores == pytest.approx(expected, abs=1e-5)


def test_a_tokenizer_without_padding_token_is_enough(tokenizer, episodes):
    model = make_gpt2(pad_token_id=None)
    tokenizer.pad_token = None
    expected = [logits_of(model, *ids).item() for ids in FULL_IDS]
    scores = score_episodes(ClassifierReward(model, tokenizer), episodes)
    assert scores == pytest.approx(expected, abs=1e-5)


def test_batches_have_the_given_size_and_change_nothing(tokenizer, make_episodes, make_bert):
    model = make_bert()
    episodes = make_episodes("good", "bad", "sea it", "sky", "it")
    sizes = []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(output.logits)))
    at_once = score_episodes(ClassifierReward(model, tokenizer), episodes)
    in_pairs = score_episodes(ClassifierReward(model, tokenizer, batch_size=2), episodes)
    assert sizes == [5, 2, 2, 1]
    assert in_pairs == pytest.approx(at_once, abs=1e-6)


def test_dropout_and_gradients_are_off(tokenizer, episodes, make_bert):
    model = make_bert().train()
    requires_grad = []
    model.register_forward_hook(
        lambda module, inputs, output: requires_grad.append(output.logits.requires_grad)
    )
    reward = ClassifierReward(model, tokenizer)
    assert score_episodes(reward, episodes).tolist() == score_episodes(reward, episodes).tolist()
    assert requires_grad == [False, False]


@pytest.mark.parametrize(("max_length", "kept"), [(None, 8), (3, 3)])
def test_a_text_that_is_too_long_loses_its_beginning(
    max_length, kept, tokenizer, make_episodes, make_bert
):
    model = make_bert()
    episodes = make_episodes("bad sky it sea good", prompt="write write write write ")
    words = [WRITE, WRITE, BAD, SKY, IT, SEA, GOOD][-(kept - 1) :]
    expected = logits_of(model, CLS, *words).softmax(-1)[1].item()
    reward = ClassifierReward(model, tokenizer, max_length=max_length)
    with pytest.warns(UserWarning, match=rf"reads {kept} tokens at most, and a text has 10"):
        scores = score_episodes(reward, episodes)
    assert scores == pytest.approx([expected], abs=1e-6)


def test_the_users_tokenizer_is_left_as_it_was(tokenizer, make_episodes, make_bert):
    tokenizer.truncation_side, tokenizer.padding_side = "right", "left"
    reward = ClassifierReward(make_bert(), tokenizer, max_length=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score_episodes(reward, make_episodes("good bad sea", "it"))
    assert (tokenizer.truncation_side, tokenizer.padding_side) == ("right", "left")
    assert tokenizer("good bad sea")["input_ids"] == [CLS, GOOD, BAD, SEA]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": "happy"}, r"label='happy' is not a label .* \['NEGATIVE', 'POSITIVE', 'NEUTRAL"),
        ({"label": 3}, r"label=3 is not a label of the model: .* or its number, 0 to 2"),
        ({"label": -1}, r"label=-1 is not a label of the model"),
        ({"activation": "softmax"}, r"activation='softmax' is unknown: use 'logit'"),
        ({"text": "prompt"}, r"text='prompt' is unknown: use 'full' or 'response'"),
        ({"batch_size": 0}, r"batch_size=0 is too small: use at least 1"),
        ({"max_length": 0}, r"max_length=0 is too small: use at least 1, or None"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message, tokenizer, make_bert):
    with pytest.raises(ValueError, match=message):
        ClassifierReward(make_bert(), tokenizer, **arguments)


def test_an_error_of_the_model_surfaces(tokenizer, episodes, make_bert):
    def fail(module, inputs):
        raise RuntimeError("out of memory")

    model = make_bert()
    model.register_forward_pre_hook(fail)
    with pytest.raises(RewardError, match=r"reward '.*Bert.*' raised RuntimeError: out of memory"):
        score_episodes(ClassifierReward(model, tokenizer), episodes)


# As Llama's: the template writes the beginning, and each turn has an end.
CHAT = (
    "{{ '[CLS] ' }}{% for m in messages %}{{ m.role }} {{ m.content }} [UNK] {% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)


def conversation(response, *messages):
    data = {"prompt": [dict(zip(("role", "content"), pair, strict=True)) for pair in messages]}
    markup = "<|policy|>sea<|end|>"
    return Episode(markup, response, np.arange(2), np.arange(3), "stop", data)


@pytest.mark.parametrize("open_answer", [False, True])
def test_a_conversation_is_read_by_the_template_of_the_classifier(
    open_answer, tokenizer, make_bert
):
    """Not by the policy's, with one beginning, and with the end of the turn."""
    model = make_bert(("reward",))
    tokenizer.chat_template = CHAT
    messages = [("user", "sea")] + ([("assistant", "good ")] if open_answer else [])
    response = "it" if open_answer else "good it"
    answer = {"role": "assistant", "content": "good it"}
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "sea"}, answer], return_dict=False
    )
    assert ids.count(CLS) == 1 and ids[-1] == 1
    scores = score_episodes(ClassifierReward(model, tokenizer), [conversation(response, *messages)])
    assert scores == pytest.approx([logits_of(model, *ids).item()], abs=1e-5)


def test_a_classifier_without_a_template_reads_the_contents(tokenizer, make_bert):
    model = make_bert(("reward",))
    episodes = [conversation("good it", ("system", "write"), ("user", "sea"))]
    scores = score_episodes(ClassifierReward(model, tokenizer), episodes)
    expected = logits_of(model, CLS, WRITE, SEA, GOOD, IT).item()
    assert scores == pytest.approx([expected], abs=1e-5)
    alone = ClassifierReward(model, tokenizer, text="response")
    assert score_episodes(alone, episodes) == pytest.approx(
        [logits_of(model, CLS, GOOD, IT).item()], abs=1e-5
    )


@pytest.mark.parametrize("kind", ["Roberta", "XLMRoberta", "Camembert", "MPNet"])
def test_positions_that_begin_behind_the_padding_are_not_exceeded(kind, tokenizer, make_episodes):
    """514 positions are 512 tokens for RoBERTa, whose tokenizer may not name a limit."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, max_position_embeddings=14, pad_token_id=0, num_labels=1,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    tokenizer.model_max_length = int(1e30)
    reward = ClassifierReward(model, tokenizer)
    padding = next(
        m.padding_idx for n, m in model.named_modules() if n.endswith("position_embeddings")
    )
    assert reward.max_length == 14 - padding - 1
    with pytest.warns(UserWarning, match="its beginning is cut off"):
        score_episodes(reward, make_episodes("good " * 50))


@pytest.mark.parametrize("others", [[], ["good bad"]])
def test_an_empty_text_has_a_score(others, tokenizer, make_bert, make_episodes):
    """Also where the tokenizer begins with nothing."""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("$A", None, [])
    reward = ClassifierReward(make_bert(("reward",)), tokenizer, text="response")
    assert len(score_episodes(reward, make_episodes("", *others))) == 1 + len(others)
