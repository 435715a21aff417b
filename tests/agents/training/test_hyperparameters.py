"""The arguments of an algorithm: fields, which are shown, checked and filled in."""

from __future__ import annotations

import inspect
import pydoc
from dataclasses import field
from typing import Annotated

import pytest

import agents.algorithms
from agents import PPO, REINFORCE, RLOO, ActorCritic
from agents.training.hyperparameters import AUTO, hyperparameter_names, state_names
from textenv.arguments import Range


def test_the_signature_shows_the_arguments_that_all_have_in_common(name):
    kind = getattr(agents.algorithms, name)
    parameters = inspect.signature(kind).parameters
    assert list(parameters)[:2] == ["policy", "env"]
    shown = {"n_envs", "seed", "device", "env_kwargs", "policy_kwargs", "learning_rate", "n_steps"}
    assert shown < set(parameters)
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert ("batch_size" in parameters) == (name in {"PPO", "TRPO", "GRPO"})
    page = pydoc.render_doc(kind)
    assert all(word in page for word in (*shown, *parameters))


@pytest.mark.parametrize("kind", [REINFORCE, ActorCritic, RLOO])
@pytest.mark.parametrize("argument", ["batch_size", "n_epochs"])
def test_one_step_on_each_rollout_takes_no_minibatches(kind, argument, on_cartpole):
    sentence = rf"{kind.__name__} got .* argument '{argument}'\. It takes one optimiser step on"
    with pytest.raises(TypeError, match=sentence):
        on_cartpole(kind, **{argument: 16})


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("lerning_rate", "Did you mean 'learning_rate'"),
        ("clip_rang", "Did you mean 'clip_range"),
        ("kl_penalty_target", "Did you mean"),
        ("zzz", r"\.$"),
    ],
)
def test_an_unknown_argument_is_refused_with_those_that_are_like_it(argument, hint, on_cartpole):
    with pytest.raises(
        TypeError, match=f"PPO got an unexpected keyword argument '{argument}'.*{hint}"
    ):
        on_cartpole(PPO, **{argument: 1})


def test_an_unknown_policy_is_refused_with_the_known_ones(on_cartpole):
    with pytest.raises(ValueError, match="'CnnPolicy' is unknown: use one of CausalLMPolicy, Mlp"):
        on_cartpole(PPO, policy="CnnPolicy")


def test_what_is_auto_is_filled_in_and_what_is_given_stays(on_cartpole):
    agent = on_cartpole(PPO, gamma=0.5, batch_size=None, n_epochs=AUTO)
    assert (agent.gamma, agent.batch_size) == (0.5, None)
    assert agent.n_epochs == 10 and agent.gae_lambda == 0.95
    for name in hyperparameter_names(PPO):
        value = getattr(agent, name)
        assert name == "shard" or not isinstance(value, str) or value != AUTO, name


# Algorithms of one's own


class Bonus(REINFORCE):
    """REINFORCE with an argument more."""

    bonus: Annotated[float, Range(0)] = 0.5
    "What is added, in units of the return."
    total: float = field(default=0.0, init=False)


class Changed(PPO):
    gamma = 0.3


def test_an_argument_of_ones_own_joins_the_others(on_cartpole):
    parameters = inspect.signature(Bonus).parameters
    assert {"bonus", "return_to_go", "n_envs", "seed"} < set(parameters)
    assert "total" not in parameters and state_names(Bonus) == ["baseline", "total"]
    assert parameters["bonus"].default == 0.5
    assert {"bonus", "return_to_go", "gamma"} < set(hyperparameter_names(Bonus))
    assert "bonus: What is added, in units of the return." in pydoc.render_doc(Bonus)
    agent = on_cartpole(Bonus, bonus=2.0)
    assert (agent.bonus, agent.gamma) == (2.0, 0.99)
    with pytest.raises(
        TypeError, match=r"Bonus got an unexpected keyword argument 'bonsu'\. Did you mean 'bonus'"
    ):
        on_cartpole(Bonus, bonsu=1.0)
    with pytest.raises(ValueError, match=r"bonus=-1 must be a number of at least 0"):
        on_cartpole(Bonus, bonus=-1)


def test_a_constructor_of_ones_own_is_refused_at_once():
    with pytest.raises(TypeError, match="WithConstructor has a constructor: write each of its"):

        class WithConstructor(REINFORCE):
            def __init__(self, policy, env, *, bonus=0.5, **common):
                super().__init__(policy, env, **common)


def test_a_default_of_ones_own_comes_before_the_presets(on_cartpole):
    assert on_cartpole(Changed).gamma == 0.3
    assert on_cartpole(Changed, gamma=0.7).gamma == 0.7


def test_an_agent_is_shown_in_a_line(on_cartpole):
    agent = on_cartpole(PPO)
    assert repr(agent).startswith("PPO(MlpPolicy, CartPole-v1, n_envs=2, seed=")
    assert repr(agent).endswith("0 timesteps in 0 rollouts")
