"""``agents.evaluate`` and ``agents.compare``: whatever acts, in whichever environment.

evaluate("runs/ppo-bundled-0").returns.mean()
found = compare({"PPO": PPO, "GRPO": (GRPO, {"learning_rate": 3e-4}), "untouched": Untouched()},
                env_kwargs={"reference": "bundled", "kl_coef": 0.1}, total_timesteps=20_000)
found.summary()
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from agents import algorithms
from agents.agent import Agent
from agents.evaluation import Returns, TextEvaluation, evaluate_returns, evaluate_text
from agents.evaluation.candidates import UNTRAINED, as_predictor, env_of
from agents.evaluation.comparison import EVALUATION_SEED, Comparison, Run
from agents.experience import environments
from agents.experience.undo import way_back
from agents.saving import agent_folder, resume
from agents.training.device import find_device

ROWS = 8  # of an environment that is made here


def evaluate(
    candidate: Any,
    env: str | gym.Env | VectorEnv | VecEnv | None = None,
    n_episodes: int = 256,
    seed: int = 0,
    *,
    deterministic: bool | None = None,
    kl_coef: float | None = None,
    prompts: Any = None,
    env_kwargs: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    draw: int = 0,
) -> TextEvaluation | Returns:
    """Episodes of anything that acts. The same seed gives all candidates the same prompts.

        evaluate("runs/ppo-bundled-0").returns.mean()
        evaluate(BestOfN(4), "TextGen-v0", env_kwargs={"reference": "bundled", "kl_coef": 0.1})
        evaluate(model_of_stable_baselines3, "CartPole-v1", n_episodes=20).returns

    Args:
        candidate: an agent, or the folder of one; a policy; a model of stable-baselines3 or
            anything else with its ``predict``; a function from observations to actions, both of all
            rows; or `Untouched`, `Greedy`, `RandomTokens`, `BestOfN`, which need no training.
        env: an environment, one of any vector kind, or an id; None uses the candidate's own. Text
            is sampled in an environment of its own with the same task. The environment of an agent
            is put back to where its learning left it, or begins new episodes where that is unknown
            (`agents.experience.env_state`); that of a model of stable-baselines3 begins new
            episodes.
        n_episodes: number of episodes.
        seed: the seed of the environment and, for text, of the actions.
        deterministic: act without drawing. None draws for text alone, as language models are used.
        kl_coef: for text, β of the returns; None uses that of the environment.
        prompts: for text, other prompts than the environment's.
        env_kwargs: arguments of the environment of an id, or of a saved agent.
        device: of an agent that is loaded, and of an environment that is made.
        draw: for text, another number gives other actions on the same prompts.

    Raises:
        TypeError: the candidate is none of these.
        ValueError: there is no environment, or the candidate cannot act in it.
    """
    keywords = dict(env_kwargs or {})
    if isinstance(candidate, str | Path):
        # In a live environment of text is only measured: an agent that is made in it would bind it.
        measured = isinstance(env, VecEnv) or bool(environments.text_environments(env))
        own: Any = {} if env is None or measured else {"env": env}
        candidate = load_agent(candidate, env_kwargs=keywords, device=device, **own)
        env = env if measured else None
    env = env_of(candidate) if env is None else env
    if isinstance(env, str):
        env = environments.make(env, ROWS, keywords, 1, find_device(device))
    if environments.text_environments(env):
        greedy = bool(deterministic)  # None draws
        return evaluate_text(candidate, env, n_episodes, seed, kl_coef, prompts, greedy, draw)
    if n_episodes < 1:
        raise ValueError(f"n_episodes={n_episodes} must be at least 1.")
    greedy = deterministic is not False
    predictor = as_predictor(candidate, env)
    if isinstance(env, VecEnv):
        env.seed(seed)
        found, _ = evaluate_policy(
            predictor, env, n_episodes, greedy, return_episode_rewards=True, warn=False
        )
        if getattr(candidate, "env", None) is env:
            candidate._last_obs = None  # its next rollout begins new episodes
        return Returns(np.array(found))
    vector: Any = environments.prepare(env, torch.device("cpu"))
    if not isinstance(candidate, Agent) or candidate.env is not vector:
        return Returns(evaluate_returns(predictor, vector, n_episodes, seed, greedy))
    put_back = way_back(candidate.collector, new_seed=resume.new_seed(candidate))
    try:
        return Returns(evaluate_returns(predictor, vector, n_episodes, seed, greedy))
    finally:
        put_back()


def load_agent(folder: str | Path, **changes: Any) -> Agent:
    """The saved agent of a folder, of whichever algorithm of this library.

    Args:
        folder: of an agent, or of a run, whose newest agent is taken.
        changes: as of `Agent.load`.

    Raises:
        FileNotFoundError: there is no agent in the folder.
        ValueError: its algorithm is a custom class.
    """
    return algorithm_of(folder).load(folder, **changes)


def algorithm_of(folder: str | Path) -> type[Agent]:
    """The class of the saved agent of a folder; raises errors as `load_agent`."""
    name = agent_folder.describe(agent_folder.find(folder))["algorithm"]
    if name not in algorithms.__all__:
        raise ValueError(
            f"The algorithm of the agent in {str(folder)!r} is a custom class, {name}: evaluate it "
            f"from Python, where {name}.load gives an agent for agents.evaluate."
        )
    return getattr(algorithms, name)


def compare(
    candidates: Mapping[str, Any],
    env: str | Sequence[str] = "TextGen-v0",
    seeds: int | Sequence[int] = 5,
    total_timesteps: int = 60_000,
    n_episodes: int = 512,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    policy_kwargs: Mapping[str, Any] | None = None,
    prompts: Any = None,
    evaluation_seed: int = EVALUATION_SEED,
    device: str = "auto",
    report: Callable[[str], Any] = print,
) -> Comparison:
    """Train and evaluate each candidate on each seed of each task, in this process.

    Args:
        candidates: by their names: an agent's class, or (class, hyper-parameters); a function of
            the seed that makes an agent or a model of stable-baselines3 to be trained; or something
            that is evaluated as it is, as `agents.evaluate` takes it.
        env: ids of environments.
        seeds: their number, or the seeds themselves.
        total_timesteps: of each run's learning: tokens, for text.
        n_episodes: of each evaluation.
        env_kwargs: arguments of the environments.
        policy_kwargs: arguments of the policies of classes; by default the reference's model, if it
            is named.
        prompts: of the evaluations; None for those of the environment.
        evaluation_seed: the seed of the prompts of all evaluations.
        device: as of `Agent`.
        report: is told what begins.
    """
    tasks = [env] if isinstance(env, str) else list(dict.fromkeys(env))
    numbers = list(dict.fromkeys(range(seeds) if isinstance(seeds, int | np.integer) else seeds))
    for name, values in (("candidates", candidates), ("env", tasks), ("seeds", numbers)):
        if not values:
            raise ValueError(f"{name} is empty: there is nothing to compare.")
    plan = [(task, seed, name) for task in tasks for seed in numbers for name in candidates]
    entries = []
    for number, (task, seed, name) in enumerate(plan, 1):
        report(f"run {number} of {len(plan)}: {name} on {task}, seed {seed}")
        # Live objects, such as models and schedules of β, are new in each run.
        fresh = copy.deepcopy(env_kwargs), copy.deepcopy(policy_kwargs)
        actor = _made(candidates[name], task, seed, *fresh, device)
        learns = actor is not candidates[name] and hasattr(actor, "learn")
        if learns:
            actor.learn(total_timesteps)
        found = evaluate(
            actor, None if learns else task, n_episodes, evaluation_seed, prompts=prompts,
            env_kwargs=copy.deepcopy(env_kwargs), device=device, draw=seed,
        )  # fmt: skip
        timesteps, seconds = (
            (actor.num_timesteps, getattr(actor, "learning_seconds", np.nan)) if learns else (0, 0)
        )
        entries.append(Run(task, name, seed, found, timesteps, seconds))
    return Comparison(entries)


def _made(
    candidate: Any,
    task: str,
    seed: int,
    env_kwargs: Mapping[str, Any] | None,
    policy_kwargs: Mapping[str, Any] | None,
    device: str,
) -> Any:
    """What acts for a candidate on one seed: an untrained agent, or the candidate itself."""
    cls, arguments = candidate if isinstance(candidate, tuple) else (candidate, {})
    arguments = copy.deepcopy(arguments)
    if isinstance(cls, type) and issubclass(cls, Agent):
        native = environments.native_text_class(environments.imported(task))
        policy = "MlpPolicy" if native is None else "CausalLMPolicy"
        model = (env_kwargs or {}).get("reference")
        by_name = native is not None and isinstance(model, str | Path)
        of_policy = {"model": model} if by_name else {}
        return cls(policy, task, **{
            "seed": seed, "device": device, "env_kwargs": env_kwargs,
            "policy_kwargs": {**of_policy, **(policy_kwargs or {})}, **arguments,
        })  # fmt: skip
    acts = any(hasattr(candidate, name) for name in ("predict", "act"))
    if (acts and not isinstance(candidate, type)) or isinstance(candidate, UNTRAINED | str | Path):
        return candidate
    if not callable(candidate) or isinstance(candidate, type):
        raise TypeError(
            f"{candidate!r} cannot be compared: give an agent's class, (class, hyper-parameters), "
            "a function of the seed that makes something, or what agents.evaluate takes."
        )
    return candidate(seed)
