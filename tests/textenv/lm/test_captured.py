"""A decode step from static tensors: what a CUDA graph needs, as far as it shows without CUDA."""

from __future__ import annotations

import gc

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from agents.policies.decoding import Caches, Decoders
from textenv.lm.captured import BUCKET, CapturedStep, differences
from textenv.lm.decoder import Decoder

LENGTH = 16
KINDS = ["llama", "gpt2", "qwen3", "gpt_neox", "opt"]
every_kind = pytest.mark.parametrize("architecture", KINDS)
# Operators whose result the host has to wait for, or whose shape depends on numbers.
WAITING = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "equal", "unique")


class Log(TorchDispatchMode):
    """The names of all operators that run."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def prefilled(make_model, make_rows):
    """``prefilled("llama")``: a decoder with captured steps and its rows, after their prompts."""

    def make(architecture: str):
        decoder = Decoder(make_model(architecture), num_rows=3, max_length=LENGTH, captured=True)
        rows = make_rows([5, 6], [9, 8, 7], [3])
        rows.next_of(decoder)
        return decoder, rows

    return make


@every_kind
def test_steps_from_static_tensors_have_the_logits_of_the_full_forward(
    architecture, prefilled, assert_same_as_full_forward
):
    decoder, rows = prefilled(architecture)
    for token in (40, 60):
        rows.grow(0, 1, 2, token=token)
        assert_same_as_full_forward(decoder, decoder.model, rows)
    rows.grow(1)  # too few for a step of all rows
    assert_same_as_full_forward(decoder, decoder.model, rows)
    rows.begin(0, [11, 12, 13])
    rows.grow(1, 2)
    assert_same_as_full_forward(decoder, decoder.model, rows)
    decoder.forget()
    assert_same_as_full_forward(decoder, decoder.model, rows)


@every_kind
def test_every_step_runs_the_same_operators_and_waits_for_none(architecture, prefilled):
    decoder, rows = prefilled(architecture)
    logs, addresses = [], []
    for _ in range(2):
        rows.grow(0, 1, 2)
        positions = (rows.lengths - 1)[:, None]
        static = decoder.captured
        with Log() as log, torch.no_grad():
            static(decoder._one_token, rows.input_ids.gather(1, positions), positions, 8)
        logs.append(log.names)
        layer = decoder.cache.layers[0]
        tensors = static.tokens, static.positions, layer.keys, layer.values
        addresses.append([tensor.data_ptr() for tensor in tensors])
    assert len(logs[0]) > 20 and logs[0] == logs[1]
    assert addresses[0] == addresses[1]
    assert not [name for name in logs[0] if any(f"aten.{w}." in name for w in WAITING)]


@every_kind
def test_a_step_runs_where_no_number_can_be_read(architecture, prefilled):
    decoder, _ = prefilled(architecture)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        tokens = torch.zeros(3, 1, dtype=torch.int64)
        logits, hidden = decoder._one_token(tokens, tokens + 3, LENGTH)
    assert logits.shape[0] == hidden.shape[0] == 3


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_step_compiles_as_one_graph(architecture, prefilled, assert_same_as_full_forward):
    decoder, rows = prefilled(architecture)
    decoder._one_token = torch.compile(decoder._one_token, fullgraph=True, backend="eager")
    rows.grow(0, 1, 2)
    assert_same_as_full_forward(decoder, decoder.model, rows)


def test_the_columns_that_are_read_grow_in_buckets():
    read, last = [], 3 * BUCKET - 1

    def step(tokens, positions, columns):
        read.append(columns)
        return tokens, positions

    captured, one = CapturedStep(2, last, torch.device("cpu"), torch.float32), torch.ones(2, 1)
    for columns in (1, BUCKET, BUCKET + 1, last - 1, last):
        captured(step, one, one, columns)
    assert read == [BUCKET, BUCKET, 2 * BUCKET, last, last]


@pytest.mark.skipif(torch.cuda.is_available(), reason="it has to fail")
def test_what_cannot_be_captured_runs_as_it_is_with_one_warning(
    prefilled, assert_same_as_full_forward, recwarn
):
    decoder, rows = prefilled("llama")
    decoder.captured.possible = True  # here, where there is no CUDA
    for _ in range(2):
        rows.grow(0, 1, 2)
        assert_same_as_full_forward(decoder, decoder.model, rows)
    said = [str(warning.message) for warning in recwarn if "CUDA graph" in str(warning.message)]
    assert len(said) == 1 and "one by one" in said[0]


def test_a_decoder_is_used_again_when_its_state_is_forgotten(make_model):
    model, decoders = make_model(), Decoders(captured=True)
    decoder = Decoder(model, num_rows=2, max_length=LENGTH, captured=True)
    state = decoders.lend(Caches(decoder))
    assert decoders.take(model, 2, LENGTH) is not decoder  # it is in use
    del state
    gc.collect()
    assert decoders.take(model, 3, LENGTH) is not decoder
    assert decoders.take(make_model(), 2, LENGTH) is not decoder
    assert decoders.take(model, 2, LENGTH) is decoder
    assert decoders.take(model, 2, LENGTH) is not decoder


def test_a_decoder_is_not_used_again_when_the_weights_have_moved(make_model):
    model, decoders = make_model(), Decoders(captured=True)
    decoder = Decoder(model, num_rows=2, max_length=LENGTH, captured=True)
    decoders.lend(Caches(decoder))
    weight = next(model.parameters())
    weight.data = weight.data.clone()
    assert decoders.take(model, 2, LENGTH) is not decoder


def test_a_replay_is_compared_by_all_rows_and_by_the_one_that_is_farthest_off():
    one = torch.tensor([[1.0, 2.0, -torch.inf], [0.0, 4.0, 1.0]])
    assert differences(one, one) == (0, 0)
    other = one + torch.tensor([[0.1, -0.2, 0.0], [0.0, 0.6, 0.0]])
    assert differences(one, other) == pytest.approx((0.15, 0.2))
    assert not any(of <= 1 for of in differences(one * torch.nan, one))


def test_the_tolerance_is_that_of_the_precision_of_the_step():
    captured = CapturedStep(2, 8, torch.device("cpu"), torch.float32)
    assert captured.precision == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert captured.precision == torch.bfloat16
