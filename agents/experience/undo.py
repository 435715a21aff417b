"""An error while a rollout is collected leaves the agent as it was before that rollout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from agents.experience import environments
from agents.experience.steps import StepCollector
from agents.saving import env_state


@contextmanager
def undone_by_errors(agent: Any) -> Iterator[None]:
    """Put generators, counts and environment back if the block does not end, as if it never began.

    The weights do not change while a rollout is collected. Text environments go back to where they
    were. Any other environment is not read before each rollout, which may take longer than the
    rollout: after an error it begins new episodes.
    """
    policy, collector, num_timesteps = agent.policy, agent.collector, agent.num_timesteps
    generator, before = policy.generator.get_state(), None
    if environments.text_environments(collector.env):
        with suppress(env_state.NotData):
            before = env_state.capture(collector)
    try:
        yield
    except BaseException:
        policy.generator.set_state(generator)
        agent.num_timesteps = num_timesteps
        try:
            if before is None:
                raise env_state.NotData("The environment was not read.")
            env_state.restore(collector, before)
        except env_state.NotData:
            if isinstance(collector, StepCollector):
                collector.observation = None  # new episodes
        raise
