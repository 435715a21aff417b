"""Every hyper-parameter that is "auto" has a value for every policy and every model."""

from __future__ import annotations

import inspect

import pytest

import agents.algorithms
from agents import PPO, REINFORCE
from agents.agent import Agent
from agents.training import presets
from agents.training.hyperparameters import AUTO

MODELS = {"small network": (False, None), "small text": (True, "bundled"), "text": (True, "a/b")}
EVERY = pytest.mark.parametrize(("sequential", "model"), MODELS.values(), ids=MODELS)


def automatic(kind: type) -> set[str]:
    parameters = inspect.signature(kind).parameters.values()
    return {p.name for p in parameters if p.default is AUTO} - {"device", "shard"}


@EVERY
def test_every_automatic_argument_has_a_value(name, sequential, model):
    kind = getattr(agents.algorithms, name)
    values = presets.hyperparameters(kind, sequential, model)
    assert {"learning_rate", "n_envs", "n_steps", "max_grad_norm"} <= automatic(kind)
    assert automatic(kind) <= set(values)
    assert AUTO not in values.values()
    assert 0 < values["learning_rate"] < 0.1
    assert values["n_envs"] >= 1


@EVERY
def test_an_algorithm_of_ones_own_has_those_that_it_derives_from(sequential, model):
    class Mine(PPO):
        pass

    class Other(Agent):
        pass

    for derived, base in ((Mine, PPO), (Other, REINFORCE)):
        values = presets.hyperparameters(derived, sequential, model)
        assert values == presets.hyperparameters(base, sequential, model)
    assert presets.hyperparameters(Mine, sequential, model) != values


def test_the_size_of_a_model_tells_which_are_taken(make_model, model_folder, tmp_path):
    assert presets.is_small(None) and presets.is_small("bundled")
    assert presets.is_small(make_model()) and presets.is_small(model_folder)
    assert not presets.is_small("smollm2") and not presets.is_small("Qwen/Qwen3-0.6B")
    assert not presets.is_small(str(tmp_path))  # a folder without weights
    (tmp_path / "model.safetensors").write_bytes(b"")
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(270_000_000)  # as large as SmolLM2 in float16
    assert not presets.is_small(tmp_path)


def test_an_agent_is_made_with_them(name, make_text_envs, make_model, fitting):
    kind = getattr(agents.algorithms, name)
    model = make_model()
    envs = make_text_envs(8, **({"group_size": 4} if name in {"GRPO", "RLOO"} else {}))
    agent = kind(
        "CausalLMPolicy", envs, policy_kwargs={"model": model}, device="cpu",
        **fitting(name, group_size=4),
    )  # fmt: skip
    values = presets.hyperparameters(kind, True, model)
    for argument in automatic(kind) - {"n_envs"}:
        assert getattr(agent, argument) == values[argument], argument


def test_the_command_line_has_a_value_for_each_of_its_own():
    for model in ("bundled", "a/b"):
        chosen = presets.training(model)
        assert chosen["total_timesteps"] > 0 and chosen["kl_coef"] > 0
