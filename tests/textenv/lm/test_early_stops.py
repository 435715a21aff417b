"""Which tokens make sense: stop tokens only from ``min_new_tokens`` on, and no banned ones."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from textenv.lm.early_stops import all_early_stops, early_stops_at, forbid
from textenv.lm.log_probs import Sampling


def early(masks: np.ndarray) -> list[bool]:
    """For each row, whether both stop tokens are masked; all other tokens never are."""
    assert (masks[:, 0] == masks[:, 1]).all() and masks[:, 2:].all()
    return (~masks[:, 0]).tolist()


@pytest.fixture
def later(make_envs):
    """``later(...)``: rows whose stop tokens 0 and 1 end nothing before the third token."""
    return lambda *args, **kwargs: make_envs(*args, stop=1, min_new_tokens=3, **kwargs)


def test_stops_are_masked_until_they_count(later, array):
    envs = later(3, array=array, autoreset_mode="disabled")
    envs.reset(seed=0)
    tokens = np.array([7, 7, 7])
    given = tokens if array == "numpy" else torch.from_numpy(tokens)
    assert early(envs.action_masks()) == [True] * 3
    envs.step(given)
    assert early(envs.action_masks()) == [True] * 3
    envs.step(given)
    assert early(envs.action_masks()) == [False] * 3  # the third token may stop
    terminated = envs.step(given * 0)[2]
    assert terminated.all()
    envs.reset(options={"reset_mask": np.array([True, False, True])})
    assert early(envs.action_masks()) == [True, False, True]


def test_a_masked_stop_ends_nothing(later):
    """So the mask takes nothing away; the environment accepts every token all the same."""
    envs = later(2, autoreset_mode="disabled")
    envs.reset(seed=0)
    for _ in range(2):
        assert not envs.step(np.array([0, 1]))[2].any()
    assert envs.step(np.array([0, 1]))[2].all()


def test_the_observation_says_which_tokens_stop_and_from_where(later, array):
    envs = later(4, array=array, autoreset_mode="same_step")
    observation, _ = envs.reset(seed=0)
    assert observation["stop_tokens"].tolist() == [[0, 1]] * 4
    for _ in range(12):
        lengths = observation["attention_mask"].sum(1)
        rows = (
            torch.as_tensor(observation["stop_tokens"]),
            torch.as_tensor(observation["stop_column"]),
        )
        illegal = (early_stops_at(*rows, torch.as_tensor(lengths)) >= 0).any(dim=1)
        assert illegal.tolist() == early(envs.action_masks())
        assert observation in envs.observation_space or array == "torch"
        tokens = np.array([7, 8, 0, 1])
        observation, *_ = envs.step(tokens if array == "numpy" else torch.from_numpy(tokens))


@pytest.mark.parametrize("changes", [{}, {"min_new_tokens": 1}, {"min_new_tokens": 0, "stop": 1}])
def test_without_a_least_length_nothing_is_added(changes, make_envs):
    envs = make_envs(2, **changes)
    assert set(envs.reset(seed=0)[0]) == {"input_ids", "attention_mask"}
    assert envs.action_masks().all()


def test_a_single_environment_has_the_masks_of_a_row(make_env, later):
    env = make_env(stop=1, min_new_tokens=3)
    envs = later(1, autoreset_mode="disabled")
    env.reset(seed=0), envs.reset(seed=0)
    for _ in range(3):
        mask = env.get_wrapper_attr("action_masks")()
        assert mask.shape == (env.action_space.n,) and np.array_equal(mask, envs.action_masks()[0])
        env.step(7), envs.step(np.array([7]))
    check_env(env.unwrapped, skip_render_check=True)


def test_the_bans_of_the_bound_policy_are_masked(make_envs):
    envs = make_envs(2, autoreset_mode="disabled")
    envs.reset(seed=0)
    envs.bind(SimpleNamespace(action_record=None, sampling=Sampling(banned_tokens=(4, 9))))
    assert (~envs.action_masks()).nonzero()[1].tolist() == [4, 9, 4, 9]
    envs.bind(None)
    assert envs.action_masks().all()


def test_forbid():
    logits = torch.arange(8.0).view(2, 4).requires_grad_()
    by_ids = forbid(logits, torch.tensor([[3, 0], [-1, -1]]))
    dense = torch.tensor([[True, False, False, True], [False] * 4])
    assert by_ids.tolist() == [[-np.inf, 1, 2, -np.inf], [4, 5, 6, 7]]
    assert torch.equal(by_ids, forbid(logits, dense)) and forbid(logits, None) is logits
    by_ids[1].sum().backward()
    assert logits.grad.tolist() == [[0] * 4, [1] * 4]  # -1 adds to no gradient


def test_the_rule_of_rows_is_the_rule_of_steps():
    rows = {
        "prompt_lengths": torch.tensor([2, 5]),
        "stop_tokens": torch.tensor([[0, 1]] * 2),
        "stop_column": torch.tensor([[4], [6]]),
    }
    early = all_early_stops(rows, 4)
    assert early.tolist() == [
        [[0, 1], [0, 1], [-1, -1], [-1, -1]], [[0, 1], [-1, -1], [-1, -1], [-1, -1]]
    ]  # fmt: skip
    assert all_early_stops({"prompt_lengths": rows["prompt_lengths"]}, 4) is None


@pytest.mark.parametrize("forbids", [False, True])
def test_the_reference_follows_the_rule_of_the_policy(
    forbids, driving, make_envs, bound, make_model
):
    """An own loop may draw a stop too early. Only for a policy that never does, the reference
    leaves the early stops out as well; otherwise their KL would be infinite."""
    model = make_model(seed=1)
    envs = make_envs(4, stop=1, min_new_tokens=3, reference=model, kl_coef=0.5, **driving)
    sampling = Sampling(forbids_early_stops=forbids)
    policy = bound(envs, make_model(seed=2), sampling)
    observation, _ = envs.reset(seed=0)
    tokens = torch.tensor([7, 8, 9, 10] if forbids else [0, 1, 9, 10])
    policy.act(observation, tokens)
    logits = policy.sampling.apply(model_logits(model, observation), torch.tensor([[0, 1]] * 4))
    own = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    for following in (9, 0, None):
        observation, rewards, _, _, infos = envs.step(policy.action_record.actions.numpy())
        assert np.isfinite(rewards).all()
        if "ref_log_prob" in infos or "ref_log_probs" in infos:
            break
        policy.act(observation, torch.full((4,), following))
    first = infos["ref_log_prob"] if "ref_log_prob" in infos else infos["ref_log_probs"][:, 0]
    np.testing.assert_allclose(first, own.numpy(), atol=1e-4)


@torch.no_grad()
def model_logits(model, observation) -> torch.Tensor:
    rows = zip(observation["input_ids"], observation["attention_mask"].sum(1), strict=True)
    inputs = [torch.from_numpy(ids[:length])[None] for ids, length in rows]
    return torch.stack([model(input_ids=ids).logits[0, -1] for ids in inputs])


def test_gym_make_vec_has_the_masks():
    envs = gym.make_vec("TextGen-v0", num_envs=2, min_new_tokens=5)
    envs.reset(seed=0)
    masks = envs.unwrapped.action_masks()
    assert masks.shape == (2, envs.single_action_space.n) and (~masks).sum() >= 2
