"""Finished runs beside best-of-n at their own KL: a table of return, score, KL and the gap.

    for seed in 0 1 2 3 4; do python -m agents train --seed $seed --total-timesteps 520000 \
        --eval-episodes 1536 --output runs/long/ppo-$seed; done
    python tests/benchmarks/four_times.py runs/long/ppo-*

Best-of-n and the optimum come from ``reference_scores.json`` of the first folder that has one. Its
curve is drawn through every n, with the upper bound log n − (n − 1)/n of its KL, and interpolated
linearly at the KL of each run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from agents.evaluation.optimum import Attainable
from agents.evaluation.statistics import interval
from textenv.optimum import best_of_n_curve


@dataclass
class Options:
    """Print the table of some runs."""

    folders: Annotated[list[Path], tyro.conf.Positional]
    """Outputs of ``python -m agents train``."""


def main(options: Options) -> None:
    """Print a row for each run, and their mean."""
    reach = Attainable.load(
        next(
            path
            for folder in options.folders
            if (path := folder / "reference_scores.json").is_file()
        )
    )
    curve = best_of_n_curve(reach.scores, range(1, reach.optimum.samples + 1))
    print("| | return | share | score | KL | best of n at this KL | gap | tokens |")
    print("|---|---|---|---|---|---|---|---|")
    returns, gaps = [], []
    for folder in options.folders:
        final = json.loads((folder / "evaluation.json").read_text())["after"]
        kl, score, tokens = final["kl"]["mean"], final["score"]["mean"], final["timesteps"]
        value = score - reach.kl_coef * kl
        best = float(np.interp(kl, [point.kl for point in curve], [point.score for point in curve]))
        returns.append(value)
        gaps.append(score - best)
        print(
            f"| {folder.name} | {value:.3f} | {reach.optimum.share(value):.0%} | {score:.3f} "
            f"| {kl:.2f} | {best:.3f} | {score - best:+.3f} | {tokens} |"
        )
    if len(returns) > 1:
        share = reach.optimum.share(float(np.mean(returns)))
        print(f"| mean | {interval(returns)} | {share:.0%} | | | | {interval(gaps)} | |")
    for name, point in reach.points().items():
        value = reach.value(point)
        print(
            f"| *{name}* | {value:.3f} | {reach.optimum.share(value):.0%} | {point.score:.3f} "
            f"| {point.kl:.2f} | | | |"
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
