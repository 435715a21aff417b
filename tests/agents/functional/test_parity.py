"""The same tensors through other libraries' own code: same values, same gradients."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from agents.functional import advantages, natural_gradient, reductions, surrogates
from textenv.kl.estimators import k3

ROWS, STEPS = 4, 7


def test_generalized_advantages_match_stable_baselines3():
    """One truncated step among the ends: SB3 adds γ V(final observation) to its reward, here the
    same value stands in `next_values`."""
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    gamma, gae_lambda, truncated = 0.9, 0.8, (1, 3)
    generator = np.random.default_rng(0)
    rewards, values = generator.normal(size=(2, ROWS, STEPS)).astype(np.float32)
    last_values = generator.normal(size=ROWS).astype(np.float32)
    final_value = np.float32(2.5)
    ended = generator.random((ROWS, STEPS)) < 0.3
    ended[truncated] = True

    box = gym.spaces.Box(-1, 1, (1,))
    buffer = buffers.RolloutBuffer(STEPS, box, box, "cpu", gae_lambda, gamma, n_envs=ROWS)
    buffer.values[:], buffer.rewards[:] = values.T, rewards.T
    buffer.rewards[truncated[::-1]] += gamma * final_value
    buffer.episode_starts[1:] = ended.T[:-1]
    buffer.compute_returns_and_advantage(torch.tensor(last_values), ended[:, -1])

    next_values = np.concatenate([values[:, 1:], last_values[:, None]], axis=1)
    next_values[ended] = 0.0
    next_values[truncated] = final_value
    rewards, values, next_values, ended = map(
        torch.from_numpy, (rewards, values, next_values, ended)
    )
    ours = advantages.generalized_advantages(rewards, values, next_values, ended, gamma, gae_lambda)
    assert_close(ours, torch.from_numpy(buffer.advantages.T))
    assert_close(ours + values, torch.from_numpy(buffer.returns.T))


def test_conjugate_gradient_matches_sb3_contrib():
    utils = pytest.importorskip("sb3_contrib.common.utils")
    torch.manual_seed(0)
    root, b = torch.randn(12, 12, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(12)

    def matvec(vector):
        return matrix @ vector

    theirs = utils.conjugate_gradient_solver(matvec, b, max_iter=15)
    assert_close(natural_gradient.conjugate_gradient(matvec, b), theirs, rtol=0, atol=1e-5)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """A GRPO batch with ratios on both sides of the clip range, and padding of ragged rows."""
    torch.manual_seed(0)
    log_probs = -3 * torch.rand(ROWS, STEPS, dtype=torch.float64)
    lengths = torch.tensor([[7], [4], [1], [5]])
    return dict(
        log_probs=log_probs.requires_grad_(),
        old_log_probs=log_probs.detach() + 0.3 * torch.randn_like(log_probs),
        reference_log_probs=log_probs.detach() + 0.5 * torch.randn_like(log_probs),
        advantages=advantages.group_relative(torch.randn(ROWS, dtype=torch.float64), 2),
        mask=torch.arange(STEPS) < lengths,
    )


def trl_loss(batch, loss_type: str, beta: float, importance_weighted: bool) -> torch.Tensor:
    """TRL's own `_compute_loss`, lent the attributes that it reads of its trainer."""
    trainer = SimpleNamespace(
        args=SimpleNamespace(
            use_bias_correction_kl=importance_weighted, delta=None, steps_per_generation=1
        ),
        loss_type=loss_type,
        beta=beta,
        epsilon_low=0.2,
        epsilon_high=0.28,
        max_completion_length=STEPS,
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        aux_loss_enabled=False,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (
            batch["log_probs"],
            torch.zeros(ROWS, STEPS),
            None,
        ),
    )
    ids = torch.zeros(ROWS, STEPS, dtype=torch.long)
    inputs = dict(
        prompt_ids=ids,
        prompt_mask=ids,
        completion_ids=ids,
        completion_mask=batch["mask"].long(),
        advantages=batch["advantages"],
        old_per_token_logps=batch["old_log_probs"],
        ref_per_token_logps=batch["reference_log_probs"],
        num_items_in_batch=batch["mask"].sum(),
    )
    trl = pytest.importorskip("trl")
    return trl.GRPOTrainer._compute_loss(trainer, None, inputs)


@pytest.mark.parametrize("importance_weighted", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize(
    ("loss_type", "reduction"),
    [
        ("grpo", reductions.sequence_mean),
        ("bnpo", reductions.token_mean),
        ("dapo", reductions.token_mean),
        ("dr_grpo", partial(reductions.constant_length, length=STEPS)),
    ],
)
def test_group_relative_policy_loss_matches_trl(
    batch, loss_type, reduction, beta, importance_weighted
):
    theirs = trl_loss(batch, loss_type, beta, importance_weighted)

    log_probs, old, reference = (
        batch[name] for name in ("log_probs", "old_log_probs", "reference_log_probs")
    )
    per_step = batch["advantages"][:, None].expand_as(log_probs)
    losses = surrogates.clipped(log_probs, old, per_step, clip_range=0.2, clip_range_high=0.28)
    if importance_weighted:
        losses = losses + beta * surrogates.importance_weighted_kl(log_probs, old, reference)
    else:
        losses = losses + beta * k3(log_probs, reference)
    ours = reduction(losses, batch["mask"])

    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours, log_probs)[0], torch.autograd.grad(theirs, log_probs)[0])
