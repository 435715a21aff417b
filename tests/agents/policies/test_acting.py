"""Acting for rows whose episodes have ended takes no part of the work, and changes nothing."""

from __future__ import annotations

import pytest
import torch

from agents.experience.episodes import collect_episodes
from textenv.arrays import TokenObservation


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "banned_tokens": (3,)}])
@pytest.mark.parametrize("stops", [{}, {"min_new_tokens": 3}])
def test_the_texts_are_those_of_all_rows_acting(
    sampling, stops, in_batches, policy_for, make_model, monkeypatch
):
    def rollout(seen: bool):
        envs = in_batches(32, stop=[5], max_new_tokens=12, **stops)
        policy = policy_for(envs, make_model(), **sampling)
        if not seen:
            monkeypatch.setattr(TokenObservation, "running", property(
                lambda self: None, lambda self, value: None))  # fmt: skip
        fed: list[int] = []
        policy.model.get_input_embeddings().register_forward_hook(
            lambda module, args, output: fed.append(args[0].numel())
        )
        found = collect_episodes(envs, policy, seed=1)
        monkeypatch.undo()
        return found, fed

    found, fed = rollout(True)
    plain, _ = rollout(False)
    lengths = found.mask.sum(dim=1)
    assert len(set(lengths.tolist())) > 3
    assert torch.equal(found.actions[found.mask], plain.actions[plain.mask])
    assert torch.equal(found.mask, plain.mask)
    for column in ("log_probs", "values", "rewards"):
        torch.testing.assert_close(getattr(found, column), getattr(plain, column))
    # Of each row every token but the last is read once, after its prompt.
    assert sum(fed[1:]) == int((lengths - 1).sum())


def test_actions_of_ended_rows_are_0(in_batches, policy_for, make_model):
    envs = in_batches(4, stop=[5])
    policy = policy_for(envs, make_model())
    observation, _ = envs.reset(seed=0)
    assert observation.running is None
    actions, log_probs, values, state = policy.act(observation)
    observation, *_ = envs.step(torch.tensor([5, 1, 1, 5]))
    assert observation.running.tolist() == [False, True, True, False]
    actions, log_probs, values, state = policy.act(observation, state)
    assert actions.shape == log_probs.shape == values.shape == (4,)
    assert actions[[0, 3]].tolist() == log_probs[[0, 3]].tolist() == [0, 0]
    assert (log_probs[[1, 2]] < 0).all()


def test_a_new_state_may_begin_where_all_rows_have_ended(in_batches, policy_for, make_model):
    envs = in_batches(2, stop=[5])
    policy = policy_for(envs, make_model())
    envs.reset(seed=0)
    observation, *_ = envs.step(torch.tensor([5, 5]))
    assert not observation.running.any()
    actions, *_ = policy.act(observation)
    assert actions.shape == (2,)
