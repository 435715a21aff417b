"""The model's own forward pass, which acting and evaluating have to agree with."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from agents.experience.episodes import collect_episodes

CLOSE = dict(rtol=0, atol=1e-4)


def own_forward(policy, rollout, temperature=1.0, banned=()):
    """Log-probs, entropies and values ``[B, T]`` out of plain calls of the model, row by row."""
    columns = [torch.zeros(rollout.mask.shape) for _ in range(3)]
    for row, length in enumerate(rollout.mask.sum(dim=1).tolist()):
        prompt = int(rollout.observations["prompt_lengths"][row])
        chosen = torch.arange(prompt, prompt + length)  # columns of actions
        if "own_tokens" in rollout.observations:
            chosen = rollout.observations["own_tokens"][row].nonzero()[:, 0]
        ids = rollout.observations["input_ids"][row, : int(chosen[-1]) + 1]
        assert_close(ids[chosen], rollout.actions[row, :length])
        with torch.no_grad():
            output = policy.model(input_ids=ids[None], output_hidden_states=True)
        at = chosen - 1
        logits = output.logits[0, at, : policy.sampling.vocabulary].float() / temperature
        logits[:, list(banned)] = -torch.inf
        distribution = torch.distributions.Categorical(logits=logits)
        hidden = output.hidden_states[-1][0, at]
        for column, values in zip(
            columns,
            (
                distribution.log_prob(ids[chosen]),
                distribution.entropy(),
                policy.value_head(hidden)[:, 0].detach(),
            ),
            strict=True,
        ):
            column[row, :length] = values
    return columns


@pytest.fixture(scope="session")
def assert_three_ways_agree():
    """Acting, evaluating and the model's own forward give the same; returns the rollout."""

    def check(envs, policy, temperature=1.0, banned=()):
        rollout = collect_episodes(envs, policy)
        own_log_probs, own_entropy, own_values = own_forward(policy, rollout, temperature, banned)
        now = policy.evaluate(rollout, entropy=True)
        values = policy.evaluate_values(rollout)
        assert_close(rollout.log_probs, own_log_probs, **CLOSE)
        assert_close(rollout.values, own_values, **CLOSE)
        assert_close(now.log_probs.detach(), own_log_probs, **CLOSE)
        assert_close(now.entropy.detach(), own_entropy, **CLOSE)
        assert_close(now.values.detach(), own_values, **CLOSE)
        assert_close(values.detach(), own_values, **CLOSE)
        return rollout

    return check
