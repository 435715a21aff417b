"""The hyper-parameters that are ``"auto"``, for each algorithm, policy and model.

Constructors, command line, examples and README all take them from here. The arguments of a caller
take precedence. Each number has a source or was chosen by a measurement.
"""

import inspect
import os
from typing import Any

from textenv.arguments import as_path
from textenv.lm.adapters import has_adapters

SMALL_MODEL = 20e6  # parameters; the bundled model has 1.9 million, SmolLM2 has 135
BYTES_PER_PARAMETER = 2  # of the files of small models; the bundled one is float16

COMMON: dict[str, Any] = {
    "lr_schedule": "constant", "adam_epsilon": 1e-5, "vf_learning_rate": None, "gamma": 1.0,
}  # fmt: skip
CRITIC_LAYERS = 2

# Small networks. PPO and TRPO have the defaults of stable-baselines3 and sb3-contrib 2.9, whose
# rollouts of 2,048 steps are here split over 8 rows. Those of ActorCritic and REINFORCE were chosen
# on CartPole-v1, 100,000 steps, seeds 10 to 12, mean of 20 greedy episodes: ActorCritic with the
# defaults of stable-baselines3 (5 steps, 7e-4, λ = 1) reached 225 on seed 10, and these values 500,
# 500, 500; 32 steps at 3e-3 reached 450 and 216 on seeds 10 and 11.
MLP: dict[str, dict[str, Any]] = {
    "PPO": {
        "learning_rate": 3e-4, "n_envs": 8, "n_steps": 256, "batch_size": 64, "n_epochs": 10,
        "gamma": 0.99, "gae_lambda": 0.95, "vf_coef": 0.5, "max_grad_norm": 0.5,
    },
    "ActorCritic": {
        "learning_rate": 2e-3, "n_envs": 8, "n_steps": 16, "gamma": 0.99, "gae_lambda": 0.95,
        "vf_coef": 0.5, "max_grad_norm": 0.5, "normalize_advantage": False,
    },
    "TRPO": {
        "learning_rate": 1e-3, "n_envs": 8, "n_steps": 256, "batch_size": 128, "gamma": 0.99,
        "gae_lambda": 0.95, "target_kl": 0.01, "cg_damping": 0.1, "cg_max_steps": 15,
        "fisher_rows": None, "max_grad_norm": None, "n_critic_updates": 10,
    },
    "REINFORCE": {
        "learning_rate": 3e-3, "n_envs": 8, "n_steps": 512, "gamma": 0.99, "max_grad_norm": 0.5,
    },
    "RLOO": {"learning_rate": 1e-3, "n_envs": 64, "n_steps": 1, "max_grad_norm": 0.5},
    "GRPO": {
        "learning_rate": 1e-3, "n_envs": 64, "n_steps": 1, "batch_size": None, "max_grad_norm": 0.5,
    },
}  # fmt: skip

# Text: the score comes at the end, so nothing is discounted; one row is one episode.
TEXT: dict[str, Any] = {
    "n_envs": 64, "n_steps": None, "gamma": 1.0, "gae_lambda": 0.95, "vf_coef": 0.1,
    "max_grad_norm": 1.0, "batch_size": None, "normalize_advantage": True,
}  # fmt: skip

# A language model has more parameters than a rollout has tokens: without strong damping and large
# rollouts, TRPO's natural gradient fits the noise of the rollouts.
TRPO_TEXT: dict[str, Any] = {
    "target_kl": 0.05, "cg_damping": 1.0, "cg_max_steps": 10, "fisher_rows": 32,
    "learning_rate": 1e-3, "n_critic_updates": 10,
}  # fmt: skip

# What KL is wasted on: the noise of the last steps stays in the weights unless they anneal to 0,
# and with its usual epsilon Adam takes full steps along parameters whose gradient is only noise.
# (PPO, 80,000 tokens, 5 seeds: annealing saves half a nat, but no return: 0.388 and 0.389.)
CALM: dict[str, Any] = {"lr_schedule": "linear", "adam_epsilon": 1e-3, "vf_coef": 0.5}

# Models of a few million parameters; chosen on the bundled model by the return at β = 0.1. Rates, λ
# and epsilon on seeds 0 and 10: PPO, 80,000 tokens, seed 0: 0.371 with epsilon 1e-5, 0.386 with
# 1e-3; the value head on the policy's body instead of a critic of its own, 120,000 tokens: 0.370
# instead of 0.397; λ = 0.5, 0.8, 0.95: 0.387, 0.397, 0.381. Rows and minibatches by the suite, on
# seeds 100 and 101 (tests/benchmarks/results/presets.md): with few tokens, many steps on small
# rollouts go further, and with 130,000 they end as far as fewer on larger ones.
SMALL: dict[str, dict[str, Any]] = {
    "PPO": {
        **CALM, "n_envs": 128, "batch_size": 32, "learning_rate": 5e-4, "n_epochs": 1,
        "gae_lambda": 0.8, "vf_learning_rate": 1e-3,
    },
    "TRPO": {
        **TRPO_TEXT, "lr_schedule": "linear", "n_envs": 256, "target_kl": 0.02, "gae_lambda": 0.8,
        "batch_size": 64, "n_critic_updates": 1,
    },
    "ActorCritic": {**CALM, "learning_rate": 1e-3, "gae_lambda": 0.8, "vf_learning_rate": 3e-3},
    "REINFORCE": {**CALM, "learning_rate": 4e-4},
    "RLOO": {**CALM, "learning_rate": 4e-4},
    "GRPO": {**CALM, "batch_size": 32, "learning_rate": 5e-4},
    "Lookahead": {
        **CALM, "n_envs": 256, "batch_size": 64, "learning_rate": 5e-4, "n_epochs": 2,
        "gae_lambda": 0.5, "vf_learning_rate": 1e-3,
    },
}  # fmt: skip

# Real models; chosen by the return on SmolLM2-135M, sentiment, β = 0.05, 60,000 tokens, seed 10
# (tests/benchmarks/results/smollm2.md). PPO with all weights: 0.31, 0.39 at rates of 2e-5 and 4e-5,
# 0.43 with a critic of its own; with adapters of rank 16: 0.48 at 5e-4, 0.47 at 1e-3.
REAL: dict[str, Any] = {
    "lr_schedule": "linear", "n_envs": 128, "learning_rate": 4e-5, "vf_learning_rate": 3e-4,
    "vf_coef": 0.5,
}  # fmt: skip
# What has adapters takes larger steps, in fewer directions. Its value head shares their rate.
ADAPTERS: dict[str, Any] = {"lr_schedule": "linear", "n_envs": 128, "learning_rate": 5e-4}
# One step a rollout, or several on parts of it.
OF_ONE_STEP: dict[str, Any] = {"n_envs": 32}
OF_ALGORITHM: dict[str, dict[str, Any]] = {
    "PPO": {"n_epochs": 1, "batch_size": 32},
    "GRPO": {"batch_size": 32},
    "TRPO": {**TRPO_TEXT, "n_envs": 256, "target_kl": 0.02, "batch_size": 64},
    "Lookahead": {"n_epochs": 2, "batch_size": 32, "gae_lambda": 0.5},
    "ActorCritic": OF_ONE_STEP, "REINFORCE": OF_ONE_STEP, "RLOO": OF_ONE_STEP,
}  # fmt: skip


def hyperparameters(
    algorithm: type, sequential: bool, model: Any = None, lora: Any = None
) -> dict[str, Any]:
    """The values of an algorithm's hyper-parameters that are ``"auto"``; an algorithm that is not
    derived from one of `agents.algorithms` gets those of REINFORCE.

    ``sequential``: whether the policy generates text, by a model (its source or the live model)
    that may get new adapters, ``lora``.
    """
    names = [cls.__name__ for cls in algorithm.__mro__]
    name = next((name for name in names if name in SMALL), "REINFORCE")
    if not sequential:
        return {**COMMON, **MLP.get(name, MLP["PPO"])}
    if is_small(model) and lora is None:
        return {**COMMON, **TEXT, **SMALL[name]}
    of_model = ADAPTERS if has_adapters(model, lora) else REAL
    return {**COMMON, **TEXT, **of_model, **OF_ALGORITHM[name]}


def policy_kwargs(algorithm: type, policy_class: Any, model: Any, lora: Any) -> dict[str, Any]:
    """The arguments of a policy that suit an algorithm: a critic of its own, where it has one.

    With adapters the value head is on the model's own body: a second body that learns as a whole
    would take the memory that adapters save.
    """
    takes = inspect.signature(policy_class).parameters
    has_critic = "gae_lambda" in inspect.signature(algorithm).parameters
    if "critic_layers" not in takes or not has_critic:
        return {}
    return {"critic_layers": 0 if has_adapters(model, lora) else CRITIC_LAYERS}


def stable_baselines3(algorithm: str, model: Any, budget: int) -> dict[str, Any]:
    """What suits an algorithm of stable-baselines3, by its name, on text, where ours would be
    ``"auto"``.

    A rollout has as many steps as a response may have tokens, its ``budget``. The rate of small
    models is that of the example in README.md.
    """
    small = is_small(model)
    chosen: dict[str, Any] = {
        "n_envs": 64, "n_steps": budget, "gamma": 1.0, "gae_lambda": 0.8, "lr_schedule": "linear",
        "learning_rate": 1e-3 if small else REAL["learning_rate"],
        "policy_kwargs": {"critic_layers": CRITIC_LAYERS},
    }  # fmt: skip
    if algorithm == "PPO":
        chosen |= {"batch_size": 16 * budget, "n_epochs": 1}
    if algorithm == "TRPO":
        chosen["policy_kwargs"] |= {"attn_implementation": "eager"}  # has second derivatives
    elif small:
        chosen["policy_kwargs"] |= {"optimizer_kwargs": {"eps": SMALL["PPO"]["adam_epsilon"]}}
    return chosen


def training(model: Any) -> dict[str, Any]:
    """The command line's defaults beside hyper-parameters: tokens, β of the reward, episodes."""
    if is_small(model):
        return {"total_timesteps": 130_000, "kl_coef": 0.1, "reference_episodes": 4096}
    return {
        "total_timesteps": 30_000, "kl_coef": 0.05, "reference_episodes": 512, "eval_episodes": 256,
    }  # fmt: skip


def reward_model(model: Any) -> dict[str, Any]:
    """The settings of a reward model's training that depend on the language model.

    The bundled model, 1,800 pairs by sentiment with temperature 0.2, share of the perfect judge's
    accuracy on 4,000 others, mean of two sets of pairs: 0.884 with Adam's usual epsilon and a
    learning rate of 1e-3; 0.889 with 1e-3 and 3e-3, 0.892 with 1e-2 and 1e-2 (a token that occurs
    once takes a step as long as any other unless epsilon is large). Three epochs instead of two:
    0.888. Dropout, fewer layers, an auxiliary loss of the language model, a mean of the last
    weights and one of three models gave no more. A logistic regression on words has 0.88 as well.
    One set of pairs each: 0.89 with 3,000 pairs; with the temperature 0.3, 0.88 with 1,800 and 0.94
    with 4,000; with 0.4 and 1,800 pairs, 0.88, and with 0.1, 0.86.
    """
    if is_small(model):
        return {"learning_rate": 1e-2, "adam_epsilon": 1e-2}
    return {"learning_rate": 2e-5, "adam_epsilon": 1e-8}


def is_small(model: Any) -> bool:
    """Whether a model has fewer than `SMALL_MODEL` parameters, as far as known before loading."""
    if model is None or model == "bundled":
        return True
    if hasattr(model, "parameters"):
        return sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL
    if isinstance(model, str | os.PathLike) and as_path(model).is_dir():
        sizes = [file.stat().st_size for file in as_path(model).glob("model*.safetensors")]
        # Agents save small models in float32, twice the size of float16.
        return bool(sizes) and sum(sizes) < 2 * BYTES_PER_PARAMETER * SMALL_MODEL
    return False
