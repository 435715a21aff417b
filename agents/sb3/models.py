"""Models of stable-baselines3 that learn on text, as this library compares them with its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.sb3.policy import LiveModel, SB3CausalLMPolicy
from agents.sb3.vec_env import text_vec_env
from agents.training.device import find_device
from agents.training.optimization import lr_schedule
from textenv.arguments import first_line


def text_model(
    algorithm: type[OnPolicyAlgorithm],
    env_id: str,
    model: Any,
    *,
    n_envs: int,
    env_kwargs: Mapping[str, Any],
    seed: int,
    device: str,
    temperature: float = 1.0,
    **hyperparameters: Any,
) -> OnPolicyAlgorithm:
    """An algorithm of stable-baselines3 with our policy, in its own text environment.

    ``hyperparameters`` are those of `agents.training.presets.stable_baselines3`, or others: of the
    algorithm, and ``lr_schedule``, by which a ``learning_rate`` that is a number changes.
    """
    named = isinstance(model, str | Path)
    tokenizer = {"tokenizer": model} if named else {}
    env = text_vec_env(env_id, n_envs, **{**tokenizer, **env_kwargs})
    source = model if named or isinstance(model, LiveModel) else LiveModel(model)
    policy = {"model": source, "temperature": temperature}
    policy |= hyperparameters.pop("policy_kwargs", {})
    anneal = lr_schedule(hyperparameters.pop("lr_schedule", "constant"))
    rate = hyperparameters.pop("learning_rate")
    schedule = rate if callable(rate) else lambda left: rate * anneal(left)
    try:
        return algorithm(
            SB3CausalLMPolicy, env, seed=seed, device=str(find_device(device)),
            policy_kwargs=policy, learning_rate=schedule, **hyperparameters,
        )  # fmt: skip
    except AssertionError as error:  # by which stable-baselines3 refuses a hyper-parameter
        whose = f"{algorithm.__name__} of stable-baselines3"
        raise ValueError(f"{whose}: {first_line(error)}") from error
