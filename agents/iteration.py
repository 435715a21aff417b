"""One iteration of learning: a rollout, the update on it, and what is logged of both."""

from __future__ import annotations

import time
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from agents import distributed
from agents.sb3.callbacks import StepReport, needs_steps
from agents.training.metrics import log_entry, speed
from agents.training.optimization import check_finite


def iteration(agent: Any, callback: BaseCallback) -> dict[str, float]:
    """A rollout and its update.

    Returns:
        Their entry in the log.
    """
    with distributed.raise_in_all_processes():
        callback.on_rollout_start()
    timesteps, began = agent.num_timesteps, time.perf_counter()
    report = StepReport(agent, callback) if needs_steps(callback) else None
    rollout = agent.collect(on_step=report)
    collected = time.perf_counter()
    callback.update_locals({"self": agent, **locals()})
    callback.on_rollout_end()
    metrics = agent.update(rollout)
    check_finite(agent.policy.parameters(), agent.num_rollouts + 1)
    agent.num_rollouts += 1
    agent.between_rollouts = True
    agent.learning_seconds += time.perf_counter() - began
    metrics["learning_rate"] = agent.optimizer.param_groups[0]["lr"]
    time_metrics = speed(agent, timesteps, collected - began)
    return log_entry(rollout, agent.group_size, train=metrics, time=time_metrics)
