"""A vector environment of Gymnasium as one of stable-baselines3."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from agents.experience import environments
from agents.experience.steps import copied
from agents.sb3.actions import CHANGED
from agents.sb3.infos import info_rows, step_infos
from textenv.arrays import to_numpy
from textenv.kl.schedules import FixedKL
from textenv.vector_env import TextGenVectorEnv


def text_vec_env(env_id: str = "TextGen-v0", n_envs: int = 8, **env_kwargs: Any) -> VecEnv:
    """The native text environment for stable-baselines3, with a `VecMonitor`.

    Args:
        env_id: of a text environment.
        n_envs: number of rows.
        env_kwargs: arguments of `textenv.TextGenVectorEnv`, such as ``reference`` and ``kl_coef``.

    Raises:
        ValueError: the id is of no text environment, or ``kl_coef`` is a schedule, which algorithms
            of stable-baselines3 would never move.
    """
    if environments.native_text_class(environments.imported(env_id)) is None:
        raise ValueError(
            f"env_id={env_id!r} is no text environment: use make_vec_env of stable-baselines3."
        )
    given = environments.with_own_kl_coef(environments.imported(env_id), env_kwargs)
    settings = {"autoreset_mode": AutoresetMode.SAME_STEP, **given}
    env = gym.make_vec(environments.imported(env_id), num_envs=n_envs, **settings)
    if not all(isinstance(schedule, FixedKL) for schedule in environments.schedules(env)):
        raise ValueError(
            f"kl_coef={env_kwargs['kl_coef']!r} adapts once a rollout, which the algorithms of "
            "stable-baselines3 do not tell the environment: give a number, or use agents.PPO."
        )
    return VecMonitor(SB3VecEnv(env), info_keywords=("score",))


class SB3VecEnv(VecEnv):
    """A `VecEnv` that steps a Gymnasium vector environment, equal to `DummyVecEnv` on its rows.

    Episodes that have ended are reset in the same step; their last observation is in
    ``infos[i]["terminal_observation"]``, and the infos of the reset in ``reset_infos[i]``. A policy
    of `agents.sb3` that chooses the actions is bound to the text environments inside. ``unwrapped``
    is the environment of Gymnasium.

    Args:
        env: a vector environment with autoreset DISABLED or SAME_STEP.
        stepping: False allows NEXT_STEP, for callbacks that only read attributes.

    Raises:
        ValueError: the autoreset mode is NEXT_STEP, in which the step after an episode is lost.
    """

    def __init__(self, env: VectorEnv, stepping: bool = True):
        self.env = env
        self.mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        if stepping:
            self._check_mode()
        self._bound: Any = None
        self._observation: Any = None  # the last one, of all rows
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def _check_mode(self) -> None:
        if self.mode == AutoresetMode.NEXT_STEP:
            raise ValueError(
                "autoreset_mode=NEXT_STEP ignores an action after each episode, which "
                "stable-baselines3 would learn from: make the environment with "
                "autoreset_mode=AutoresetMode.SAME_STEP."
            )

    @property
    def unwrapped(self) -> Any:
        return self.env.unwrapped

    # --- episodes ---------------------------------------------------------------------------

    def reset(self) -> Any:
        self._check_mode()
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        observation, infos = self.env.reset(seed=seeds, options=self._merged_options())  # type: ignore[arg-type]
        self.reset_infos = info_rows(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        self._observation = copied(observation)
        return self._observation

    def _merged_options(self) -> dict[str, Any] | None:
        """The options of all rows as those of one reset."""
        first = self._options[0]
        if isinstance(self.unwrapped, TextGenVectorEnv) and first:
            return {key: np.array([options[key] for options in self._options]) for key in first}
        if any(options != first for options in self._options):
            raise ValueError(
                f"set_options got a list of different options, but {self.env} takes one mapping "
                "for all rows."
            )
        return first or None

    def step_async(self, actions: np.ndarray) -> None:
        self._check_mode()
        policy = getattr(actions, "policy", None)
        seen = getattr(actions, "seen", None)
        if seen is not None and isinstance(self._observation, dict):
            own = self._observation["input_ids"]
            if seen.shape != own.shape or not np.array_equal(to_numpy(seen), own):
                raise ValueError(
                    f"The policy saw tokens of the shape {tuple(seen.shape)} that are not those of "
                    f"the environment, of the shape {own.shape}: {CHANGED}"
                )
        if policy is not None and policy is not self._bound:
            environments.bind(self.env, policy)
            self._bound = policy
        self._actions = np.asarray(actions)

    def step_wait(self) -> Any:
        observation, rewards, terminated, truncated, columns = self.env.step(self._actions)
        rewards, terminated, truncated = map(to_numpy, (rewards, terminated, truncated))
        dones, observation = terminated | truncated, copied(observation)
        final = columns.get("final_obs", observation)
        infos, resets = step_infos(columns, terminated, truncated, final)
        if self.mode == AutoresetMode.DISABLED and dones.any():
            new, columns = self.env.reset(options={"reset_mask": dones})
            observation, resets = copied(new), info_rows(columns, self.num_envs)
        for row in np.flatnonzero(dones):
            self.reset_infos[row] = resets[row]
        self._observation = observation
        return observation, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        frames: Any = self.env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    # --- the environments of the rows -------------------------------------------------------

    def _singles(self) -> list[gym.Env] | None:
        """The environments of one row, if the vector is made of them."""
        return getattr(self.unwrapped, "envs", None)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        singles, chosen = self._singles(), self._get_indices(indices)
        if singles is not None:
            return [singles[row].get_wrapper_attr(attr_name) for row in chosen]
        value = getattr(self._owner(attr_name), attr_name)
        rows = value if self._has_rows(value, np.ndarray | torch.Tensor) else None
        return [value if rows is None else rows[row] for row in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        singles, chosen = self._singles(), list(self._get_indices(indices))
        if singles is not None:
            for row in chosen:
                setattr(singles[row], attr_name, value)
        elif chosen == list(range(self.num_envs)):
            setattr(self.unwrapped, attr_name, value)
        else:
            raise ValueError(
                f"indices={indices!r}: the rows of {self.unwrapped} are one environment, so "
                f"{attr_name} can only be set for all of them."
            )

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method for each row; of a native vector environment once, for all rows.

        A result with an entry for each row, an array or a tuple, is split.
        """
        singles, chosen = self._singles(), self._get_indices(indices)
        if singles is not None:
            methods = [singles[row].get_wrapper_attr(method_name) for row in chosen]
            return [method(*method_args, **method_kwargs) for method in methods]
        result = getattr(self._owner(method_name), method_name)(*method_args, **method_kwargs)
        split = self._has_rows(result, np.ndarray | torch.Tensor | tuple)
        return [result[row] if split else result for row in chosen]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        singles, chosen = self._singles(), self._get_indices(indices)
        if singles is not None:
            return [is_wrapped(singles[row], wrapper_class) for row in chosen]
        layer, found = self.env, False
        while layer is not self.unwrapped and not found:
            found, layer = isinstance(layer, wrapper_class), layer.env  # type: ignore[attr-defined]
        return [found for _ in chosen]

    def _owner(self, name: str) -> Any:
        """The wrapper, or the environment inside, that has an attribute."""
        return self.env if hasattr(self.env, name) else self.unwrapped

    def _has_rows(self, value: Any, kinds: Any) -> bool:
        return isinstance(value, kinds) and np.shape(value)[:1] == (self.num_envs,)
