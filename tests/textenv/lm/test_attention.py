"""Attention of short rows in bfloat16: other operators, the same numbers but for rounding."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from agents import PPO
from textenv.lm.attention import SHORT, attention_of

CPU = torch.device("cpu")


class Operators(TorchDispatchMode):
    """The names of all operators that are called in the block."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.name())
        return function(*args, **(kwargs or {}))

    @property
    def fused(self) -> bool:
        return any("flash" in name for name in self.names)


@pytest.mark.parametrize(
    ("device", "dtype", "length", "fused"),
    [
        ("cpu", torch.bfloat16, SHORT, False),
        ("cpu", torch.bfloat16, SHORT + 1, True),
        ("cpu", torch.float32, 8, True),
        ("cuda", torch.bfloat16, 8, True),  # is left to PyTorch
    ],
)
def test_plain_products_are_for_short_rows_in_bfloat16_on_a_cpu(device, dtype, length, fused):
    parts = [torch.randn(2, 2, 8, 8, dtype=dtype) for _ in range(3)]
    with attention_of(torch.device(device), dtype, length), Operators() as operators:
        scaled_dot_product_attention(*parts, is_causal=True)
    assert operators.fused == fused
    with Operators() as operators:
        scaled_dot_product_attention(*parts, is_causal=True)
    assert operators.fused  # afterwards all is as before


@pytest.mark.parametrize("masked", [True, False])
def test_values_and_gradients_are_the_same(masked):
    generator = torch.Generator().manual_seed(0)
    shape = 3, 2, 12, 8
    exact = [torch.randn(shape, generator=generator).double().requires_grad_() for _ in range(3)]
    parts = [each.detach().bfloat16().requires_grad_() for each in exact]
    mask = torch.ones(12, 12, dtype=torch.bool).tril() if masked else None
    how = {"attn_mask": mask, "is_causal": not masked}
    wanted = scaled_dot_product_attention(*exact, **how)
    with attention_of(CPU, torch.bfloat16, 12):
        found = scaled_dot_product_attention(*parts, **how)
    wanted.backward(torch.ones_like(wanted))
    found.backward(torch.ones_like(found))
    assert (found - wanted).abs().max() < 0.03
    for one, other in zip(parts, exact, strict=True):
        assert (one.grad - other.grad).norm() < 0.02 * other.grad.norm()


def fuses_shared_heads() -> bool:
    """Whether this release of PyTorch does so where several heads share their keys."""
    heads = [torch.randn(1, count, 4, 8) for count in (4, 2, 2)]
    with Operators() as operators:
        scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
    return operators.fused


@pytest.mark.parametrize(("dtype", "fused"), [("bfloat16", False), ("float32", True)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_policy_that_learns_and_its_reference_take_them(dtype, fused, checkpointing):
    agent = PPO(
        "CausalLMPolicy", "TextGen-v0", n_envs=4, device="cpu",
        env_kwargs={
            "prompts": ["The film"], "max_new_tokens": 4, "reward": "length(3)",
            "reference": "bundled", "reference_dtype": dtype, "kl_coef": 0.1,
        },
        policy_kwargs={"dtype": dtype, "gradient_checkpointing": checkpointing},
    )  # fmt: skip
    fused &= fuses_shared_heads()
    rollout = agent.collect()
    with Operators() as operators:
        agent.policy.evaluate(rollout).log_probs.sum().backward()
    assert operators.fused == fused
    shaping = agent.env.shaping
    begins = {"prompt_lengths": rollout.observations["prompt_lengths"]}
    with Operators() as operators:
        shaping.score(rollout.observations["input_ids"], begins, rollout.actions, rollout.mask)
    assert operators.fused == fused
