"""One rollout of an agent: undone by errors, counted, and known to all processes."""

from __future__ import annotations

from typing import Any

from agents import distributed
from agents.experience import environments
from agents.experience.precision import evaluate_old_log_probs
from agents.experience.rollout import Rollout
from agents.experience.steps import OnStep
from agents.experience.undo import undone_by_errors


def collect_rollout(agent: Any, on_step: OnStep | None) -> Rollout:
    """A rollout with the agent's current policy (see `agents.Agent.collect`)."""
    timesteps = agent.num_timesteps
    with undone_by_errors(agent):
        with distributed.raise_in_all_processes():
            rollout = agent.collector.collect(agent.policy, agent.n_steps, on_step)
            rollout.one_step = agent.policy.reduced_precision and _takes_one_step(agent)
            if agent.policy.reduced_precision and not rollout.one_step:
                at_once = agent.micro_batch_size or getattr(agent, "batch_size", None)
                evaluate_old_log_probs(agent.policy, rollout, at_once)
        num_steps, of_others = rollout.share_episodes()
        agent.between_rollouts = False  # until the update has ended
    environments.move_schedules(agent.env, rollout.episodes.get("kl", []))
    agent.num_timesteps = timesteps + num_steps
    # Those that are here have been added already, if steps are reported.
    new = rollout.episodes if on_step is None else of_others
    agent.add_episodes(new["return"], new["length"])
    return rollout


def _takes_one_step(agent: Any) -> bool:
    """Whether the agent's class says so that also has its update and loss, or one derived from it:
    a class with an update of its own may take several."""

    def place(name: str) -> int:
        return next(at for at, cls in enumerate(type(agent).__mro__) if name in vars(cls))

    return agent.takes_one_step and place("takes_one_step") <= min(place("update"), place("loss"))
