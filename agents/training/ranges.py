"""Which values the hyper-parameters of agents may have, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textenv.arguments import Range

COUNT, COUNT_OR_NONE = Range(1, whole=True), Range(1, whole=True, optional=True)
SHARE, FACTOR = Range(0, 1), Range(0)
POSITIVE, POSITIVE_OR_NONE = Range(above=0), Range(above=0, optional=True)

RANGES: dict[str, Range] = {
    "learning_rate": Range(0, schedule=True),
    "vf_learning_rate": Range(0, optional=True),
    "adam_epsilon": POSITIVE,
    "weight_decay": FACTOR,
    "max_grad_norm": POSITIVE_OR_NONE,
    "n_envs": COUNT,
    "n_steps": COUNT_OR_NONE,
    "n_epochs": COUNT,
    "batch_size": COUNT_OR_NONE,
    "micro_batch_size": COUNT_OR_NONE,
    "group_size": COUNT,
    "gamma": SHARE,
    "gae_lambda": SHARE,
    "baseline_momentum": Range(0, 1, optional=True),
    "vf_coef": FACTOR,
    "ent_coef": FACTOR,
    "kl_loss_coef": FACTOR,
    "kl_loss_target": POSITIVE_OR_NONE,
    "clip_range": Range(above=0, optional=True, schedule=True),
    "clip_range_high": POSITIVE_OR_NONE,
    "clip_range_vf": POSITIVE_OR_NONE,
    "dual_clip": Range(above=1, optional=True),
    "target_kl": POSITIVE_OR_NONE,
    "cg_damping": FACTOR,
    "cg_max_steps": COUNT,
    "fisher_rows": COUNT_OR_NONE,
    "line_search_shrinking_factor": Range(above=0, below=1),
    "line_search_max_iter": COUNT,
    "n_critic_updates": Range(0, whole=True),
    "seed": Range(0, 2**32 - 1, whole=True, optional=True),
    "verbose": Range(0, whole=True),
    # of `Agent.learn`
    "total_timesteps": FACTOR,
    "log_interval": COUNT_OR_NONE,
}


def check_ranges(arguments: Mapping[str, Any]) -> None:
    """Raise an error for an argument outside its range.

    Args:
        arguments: of an agent's constructor, by their names; those without a range are not checked.

    Raises:
        ValueError: the message names the argument, its value and what is allowed.
    """
    for name, value in arguments.items():
        if name in RANGES and value not in RANGES[name]:
            raise ValueError(f"{name}={value!r} must be {RANGES[name]}.")
    if arguments.get("dual_clip") is not None and arguments.get("clip_range", 0.2) is None:
        raise ValueError(
            f"dual_clip={arguments['dual_clip']!r} limits the clipped loss further, so it needs a "
            "clip_range."
        )
