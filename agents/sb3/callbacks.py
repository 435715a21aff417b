"""Callbacks of stable-baselines3 for our agents."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback

from agents.experience import environments
from agents.experience.rollout import Step
from agents.experience.steps import copied
from agents.sb3.infos import step_infos
from textenv.arrays import to_numpy


class RolloutCallback(BaseCallback):
    """A callback that needs no steps: a rollout is collected without a halt for it."""

    def _on_step(self) -> bool:
        return True


def as_callback(callback: Any, agent: Any) -> BaseCallback:
    """One callback of stable-baselines3, initialised with the agent, which it stores as its
    ``model``; made of such a callback, a list of them, a function ``(locals, globals) -> bool``, or
    None."""
    if isinstance(callback, list):
        callback = CallbackList(callback)
    elif not isinstance(callback, BaseCallback):
        callback = ConvertCallback(callback)
    callback.init_callback(agent)
    for one in _with_children(callback):
        if hasattr(one, "eval_env"):  # its rewards are shaped by the KL of this policy
            environments.bind(one.eval_env, agent.policy)
    return callback


def _with_children(callback: BaseCallback) -> Iterator[BaseCallback]:
    """A callback and those inside it, in lists or not."""
    yield callback
    for value in vars(callback).values():
        for child in value if isinstance(value, list | tuple) else [value]:
            if isinstance(child, BaseCallback) and child is not getattr(callback, "parent", None):
                yield from _with_children(child)


def needs_steps(callback: BaseCallback) -> bool:
    """Whether a callback, or one in a list, does anything at a step."""
    if type(callback) is CallbackList:
        return any(map(needs_steps, callback.callbacks))
    if type(callback) is ConvertCallback:
        return callback.callback is not None
    return type(callback)._on_step is not RolloutCallback._on_step


class StepReport:
    """Tells a callback of each step of a rollout, with the names of stable-baselines3.

    ``agent.num_timesteps`` counts the step before the callback is called; of several processes each
    counts its own steps until the end of the rollout adds those of the others. ``locals`` has
    ``actions, rewards, dones, infos, new_obs, values, log_probs`` over the rows, ``n_steps`` of
    this rollout, and ``env``. An episode's return and length are in ``infos[row]["episode"]`` at
    its end, and in ``agent.ep_info_buffer``.

    With whole episodes of text, a step counts the rows that still run, and the rewards, ``dones``
    and infos come with the last step, when all episodes are scored. (SB3's `ProgressBarCallback`
    adds all rows at each step, so it runs ahead there; ``learn(progress_bar=True)`` does not.)
    What a callback stops is undone: the count goes back to the last rollout that was learned from.
    """

    def __init__(self, agent: Any, callback: BaseCallback):
        self.agent, self.callback, self.n_steps = agent, callback, 0

    def __call__(self, step: Step) -> bool:
        """Report a step; returns whether learning goes on."""
        terminated, truncated = to_numpy(step.terminated), to_numpy(step.truncated)
        infos, _ = step_infos(step.infos, terminated, truncated, step.final)
        episodes = self.agent.add_episodes(step.returns, step.lengths)
        for row, episode in zip(np.flatnonzero(terminated | truncated), episodes, strict=True):
            infos[row]["episode"] = episode
        self.agent.num_timesteps += step.taken
        self.n_steps += 1
        self.callback.update_locals(
            {
                "actions": to_numpy(step.actions),
                "rewards": to_numpy(step.rewards),
                "dones": terminated | truncated,
                "infos": infos,
                "new_obs": copied(step.observation),
                "values": step.values,
                "log_probs": step.log_probs,
                "n_steps": self.n_steps,
                "env": self.agent.get_env(),
            }
        )
        return self.callback.on_step()
