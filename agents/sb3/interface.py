"""What callbacks and users of stable-baselines3 read of a model, for our agents."""

import time
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import safe_mean

from agents import distributed, policies
from agents.experience import environments
from agents.experience.collect import make_collector
from agents.saving import resume
from agents.sb3.vec_env import SB3VecEnv
from agents.training.metrics import make_logger

EPISODES = 100  # in `ep_info_buffer`, as in stable-baselines3


class SB3Interface:
    """The members of stable-baselines3's `BaseAlgorithm` that an agent has beside its own.

    Attributes:
        ep_info_buffer: ``{"r": return, "l": length, "t": seconds}`` of the last 100 episodes.
        logger: where `learn` writes; None before the first call.
        given_logger: the one of `set_logger`, which `learn` keeps. Without one, each `learn` begins
            a new run of its ``tb_log_name``.
    """

    env: VectorEnv
    policy: Any
    collector: Any
    num_timesteps: int
    n_envs: int

    def __init__(self) -> None:
        self.ep_info_buffer: deque[dict[str, float]] = deque(maxlen=EPISODES)
        self.logger: Logger | None = None
        self.given_logger: Logger | None = None
        self.learning_began = time.perf_counter(), 0  # and the timesteps then
        self._vec_env: SB3VecEnv | None = None

    @property
    def observation_space(self) -> gym.Space:
        """The space of one row."""
        return self.env.single_observation_space

    @property
    def action_space(self) -> gym.Space:
        """The space of one row."""
        return self.env.single_action_space

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Actions as numpy for one observation or a batch of them, and the state to pass to the
        next call, as in stable-baselines3."""
        step = observation, state, episode_start, deterministic
        return policies.predict(self.policy, self.env.single_action_space, *step)

    def get_env(self) -> SB3VecEnv:
        """The environment as a `VecEnv`, always the same object; ``agent.env`` is Gymnasium's."""
        if self._vec_env is None or self._vec_env.env is not self.env:
            mode = self.env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
            self._vec_env = SB3VecEnv(self.env, stepping=mode != AutoresetMode.NEXT_STEP)
        return self._vec_env

    def set_env(self, env: str | gym.Env | VectorEnv | SB3VecEnv, force_reset: bool = True) -> None:
        """Learn in another environment of the same spaces from now on, with new episodes.

        Args:
            env: as in the constructor, or what `get_env` of another agent returned. The number of
                rows may differ.
            force_reset: there is no other way than True.

        Raises:
            ValueError: a space is another one, or ``force_reset`` is False.
        """
        if not force_reset:
            raise ValueError("force_reset=False: another environment begins new episodes.")
        this: Any = self
        if isinstance(env, SB3VecEnv):
            env = env.env
        env = environments.for_agent(
            env, this.policy_class, this.policy_kwargs, self.n_envs, None, this.group_size,
            this.device,
        )  # fmt: skip
        for name in ("single_observation_space", "single_action_space"):
            here, there = getattr(self.env, name), getattr(env, name)
            if here != there:
                raise ValueError(
                    f"env has the {name} {there}, but the agent was made for {here}: load the "
                    "agent with env= instead."
                )
        environments.bind(env, self.policy)
        self.env, self.n_envs = env, env.num_envs
        self.collector = make_collector(env, resume.new_seed(self))

    def add_episodes(self, returns: Any, lengths: Any) -> list[dict[str, float]]:
        """Add ended episodes to ``ep_info_buffer``; returns their entries."""
        seconds = round(time.perf_counter() - self.learning_began[0], 6)
        entries = [
            {"r": float(total), "l": int(length), "t": seconds}
            for total, length in zip(returns, lengths, strict=True)
        ]
        self.ep_info_buffer.extend(entries)
        return entries

    def get_vec_normalize_env(self) -> None:
        """For callbacks; nothing is normalised here."""

    def set_logger(self, logger: Logger | None) -> None:
        """Use a logger of stable-baselines3 in each `learn`; None: `learn` makes its own."""
        self.logger = self.given_logger = logger

    def begin_log(self, name: str | None, new_run: bool) -> Logger:
        """The log of one `learn`: that of `set_logger`, or a new one, ``name`` of TensorBoard's. In
        a ``new_run`` episodes and speed are counted anew."""
        if new_run:
            self.ep_info_buffer.clear()
        self.learning_began = time.perf_counter(), self.num_timesteps
        own = self.given_logger if distributed.is_main() else None
        self.logger = own or make_logger(self, name, new_run)
        return self.logger

    def dump_logs(self, iteration: int = 0) -> None:
        """Write what was recorded since the last entry of the log, with the recent episodes, and
        the number of the rollout unless it is 0."""
        logger = self.logger
        if logger is None:
            raise ValueError("There is no log yet: call learn, or set_logger, before dump_logs.")
        if iteration:
            logger.record("time/iterations", iteration)
        if self.ep_info_buffer:
            for name, key in (("ep_rew_mean", "r"), ("ep_len_mean", "l")):
                mean = safe_mean([episode[key] for episode in self.ep_info_buffer])
                logger.record(f"rollout/{name}", mean)
        began, timesteps = self.learning_began
        seconds = max(time.perf_counter() - began, 1e-9)
        logger.record("time/fps", (self.num_timesteps - timesteps) / seconds)
        logger.record("time/total_timesteps", self.num_timesteps)
        logger.dump(self.num_timesteps)
