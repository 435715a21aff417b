"""``agents.evaluate``: whatever acts, in whichever environment."""

from collections.abc import Mapping
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
from agents.evaluation.candidates import as_predictor, env_of
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
        candidate: an agent, or the folder of one; a policy; a causal language model of
            transformers; a model of stable-baselines3 or anything else with its ``predict``; a
            function from observations to actions, both of all rows; or `Untouched`, `Greedy`,
            `RandomTokens`, `BestOfN`, which need no training.
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
    if isinstance(candidate, str | Path) and str(candidate).endswith(".zip"):
        raise ValueError(
            f"candidate={str(candidate)!r} is a file of stable-baselines3, which does not say of "
            "which algorithm: load it, as in PPO.load(path), and evaluate that."
        )
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
    """The saved agent of a folder, or the newest one of a run's, of whichever algorithm of this
    library; ``changes`` are as of `Agent.load`."""
    return algorithm_of(folder).load(folder, **changes)


def algorithm_of(folder: str | Path) -> type[Agent]:
    """The class of the saved agent of a folder."""
    name = agent_folder.describe(agent_folder.find(folder))["algorithm"]
    if name not in algorithms.__all__:
        raise ValueError(
            f"The algorithm of the agent in {str(folder)!r} is a custom class, {name}: evaluate it "
            f"from Python, where {name}.load gives an agent for agents.evaluate."
        )
    return getattr(algorithms, name)
