"""Callbacks of stable-baselines3 for our agents."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback


def as_callback(callback: Any, agent: Any) -> BaseCallback:
    """One callback of stable-baselines3, initialised with the agent.

    Args:
        callback: such a callback, a list of them, a function ``(locals, globals) -> bool``, or
            None.
        agent: the callback stores it as its ``model``.
    """
    if isinstance(callback, list):
        callback = CallbackList(callback)
    elif not isinstance(callback, BaseCallback):
        callback = ConvertCallback(callback)
    callback.init_callback(agent)
    return callback
