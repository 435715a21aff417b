"""Each number has a range: what is outside is refused in one sentence, and nothing is changed."""

from __future__ import annotations

import math

import numpy as np
import pytest

import agents.algorithms
from agents import PPO, REINFORCE, TRPO
from agents.training.hyperparameters import hyperparameter_names
from textenv.arguments import check_ranges, ranges_of

NAN, INF = math.nan, math.inf
BAD = {
    "learning_rate": [-1e-4, NAN, INF, "1e-4", None, True, np.float32("nan")],
    "vf_learning_rate": [-1.0, NAN, INF, "1"],
    "adam_epsilon": [0, -1e-8, NAN, INF, "1e-8", None],
    "weight_decay": [-0.1, NAN, INF, "0", None],
    "max_grad_norm": [0, -1, NAN, INF, "1", True],
    "n_envs": [0, -1, 1.5, NAN, "8", None, True],
    "n_steps": [0, -5, 2.5, NAN, "128"],
    "n_epochs": [0, -1, 1.5, NAN, "2", None],
    "batch_size": [0, -1, 0.5, NAN, "64"],
    "micro_batch_size": [0, -1, 2.5, NAN, "4"],
    "group_size": [0, -1, 1.5, "2", None],
    "gamma": [-0.1, 1.1, NAN, INF, "1", None],
    "gae_lambda": [-0.1, 1.01, NAN, INF, "0.9", None],
    "vf_coef": [-0.5, NAN, INF, "1", None],
    "ent_coef": [-0.1, NAN, INF, "0", None],
    "kl_loss_coef": [-0.1, NAN, INF, "0", None],
    "kl_loss_target": [0, -0.1, NAN, INF, "1"],
    "clip_range": [0, -0.2, NAN, INF, "0.2", True],
    "clip_range_vf": [0, -0.2, NAN, INF, "0.2"],
    "dual_clip": [1, 0.5, -3, NAN, INF, "3"],
    "target_kl": [0, -0.1, NAN, INF, "0.1"],
    "seed": [-1, 1.5, "0", NAN, 2**32],
    "verbose": [-1, 0.5, "1", None],
}
BAD_OF_TRPO = {
    "cg_damping": [-0.1, NAN, INF, "0.1"],
    "cg_max_steps": [0, -1, 1.5, "10"],
    "fisher_rows": [0, -1, 1.5, "32"],
    "line_search_shrinking_factor": [0, 1, -0.5, 2, NAN, "0.8"],
    "line_search_max_iter": [0, -1, 1.5, "10"],
    "n_critic_updates": [0, -1, 1.5, "10", NAN],
}


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [(PPO, name, value) for name, values in BAD.items() for value in values]
    + [(TRPO, name, value) for name, values in BAD_OF_TRPO.items() for value in values]
    + [(REINFORCE, "baseline_momentum", value) for value in (-0.1, 1.1, NAN, INF, "0.9")],
    ids=str,
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(cls, name, value):
    with pytest.raises(ValueError) as error:
        cls("MlpPolicy", "CartPole-v1", **{name: value})
    message = str(error.value)
    assert message == f"{name}={value!r} must be {ranges_of(cls)[name]}." and len(message) < 100


@pytest.mark.parametrize("value", [NAN, INF, -1, "100", None, True])
def test_learning_takes_a_number_of_timesteps(value, on_cartpole):
    agent = on_cartpole(REINFORCE)
    with pytest.raises(ValueError, match=r"total_timesteps=.* must be a number of at least 0"):
        agent.learn(value)
    with pytest.raises(ValueError, match="log_interval=0 must be a whole number of at least 1"):
        agent.learn(100, log_interval=0)
    assert agent.num_timesteps == 0


def test_a_dual_clip_without_a_clip_is_refused():
    with pytest.raises(ValueError, match=r"dual_clip=3\.0 .* needs a clip_range"):
        PPO("MlpPolicy", "CartPole-v1", dual_clip=3.0, clip_range=None)


def test_the_ends_of_ranges_numpy_numbers_and_schedules_are_fine():
    check_ranges(
        PPO,
        {"gamma": 1, "gae_lambda": np.float32(0), "n_steps": np.int64(3), "batch_size": None,
         "learning_rate": lambda remaining: 1e-3 * remaining, "seed": 2**32 - 1,
         "something else": "anything"}
    )  # fmt: skip


def test_every_number_of_every_algorithm_has_a_range():
    switches = {
        "lr_schedule", "normalize_advantage", "reverse_kl", "return_to_go", "unbiased_kl",
        "advantage_fn", "reduction", "shard",
    }  # fmt: skip
    for name in agents.algorithms.__all__:
        cls = getattr(agents.algorithms, name)
        without = set(hyperparameter_names(cls)) - ranges_of(cls).keys()
        assert without <= switches


def test_weights_that_are_not_finite_end_the_run(on_cartpole):
    agent = on_cartpole(PPO)

    def breaks(rollout):
        next(agent.policy.parameters()).data[0] = NAN
        return {}

    agent.update = breaks
    with pytest.raises(FloatingPointError, match="update of rollout 1 has left weights"):
        agent.learn(64)
    assert not agent.between_rollouts  # so that no recorder saves it
