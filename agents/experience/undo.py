"""Put an environment back to where it was: after an error in a rollout, or an evaluation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from agents.experience import environments
from agents.experience.env_state import UnknownState


@contextmanager
def undone_by_errors(agent: Any) -> Iterator[None]:
    """Put generators, counts, β and environment back after an error, as if the block never began.

    The weights do not change while a rollout is collected. Text environments go back to where they
    were. Any other environment is not read before each rollout, which may take longer than the
    rollout: after an error it begins new episodes.
    """
    policy, num_timesteps = agent.policy, agent.num_timesteps
    generator = policy.generator.get_state()
    betas = [(schedule, schedule.value) for schedule in environments.schedules(agent.env)]
    put_back = way_back(agent.collector, bool(environments.text_environments(agent.collector.env)))
    try:
        yield
    except BaseException:
        policy.generator.set_state(generator)
        agent.num_timesteps = num_timesteps
        for schedule, value in betas:
            schedule.value = value
        put_back()
        raise


def way_back(collector: Any, read: bool = True, new_seed: int | None = None) -> Callable[[], None]:
    """A function that puts a collector and its environment back to where they are now.

    Where that is unknown, or ``read`` is False, the next rollout then begins new episodes, with
    ``new_seed`` unless it is None.
    """
    try:
        state = collector.state_dict() if read else None
    except UnknownState:
        state = None

    def put_back() -> None:
        if state is not None:
            collector.load_state_dict(state)
            return
        collector.observation = None
        if new_seed is not None:
            collector.seed = new_seed

    return put_back
