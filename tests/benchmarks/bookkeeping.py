"""What a step of the vector environment costs beside the model: no policy, no scoring.

    python tests/benchmarks/bookkeeping.py

Medians over steps in which no episode ends, for 32 rows of 64 columns; beside them Gymnasium's own
SyncVectorEnv over 32 single environments.
"""

from __future__ import annotations

import statistics
import sys
import time

import gymnasium as gym
import numpy as np
import torch
from saved import publish

import textenv

ROWS, COLUMNS = 32, 64


def median_step(envs: gym.vector.VectorEnv, actions, steps: int) -> float:
    """Median microseconds of a step, over many episodes' inner steps."""
    times = []
    for _ in range(40):
        envs.reset(seed=0)
        for _ in range(steps):
            began = time.perf_counter()
            envs.step(actions)
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def main() -> None:
    torch.set_num_threads(1)
    prompt = ["The film"]
    prompt_length = len(textenv.TextGenEnv(prompts=prompt).prompts[0].ids)
    keywords = {"prompts": prompt, "max_new_tokens": COLUMNS - prompt_length}
    token, steps = 100, COLUMNS - prompt_length - 1
    lines = ["| | median µs per step |", "|---|---|"]
    for array in ("numpy", "torch"):
        for copy in (True, False):
            envs = gym.make_vec(
                "TextGen-v0", num_envs=ROWS, array=array, copy=copy,
                autoreset_mode="DISABLED", **keywords,
            )  # fmt: skip
            actions = np.full(ROWS, token)
            actions = torch.from_numpy(actions) if array == "torch" else actions
            name = f"native, {array}, {'copies' if copy else 'views'} of the table"
            lines.append(f"| {name} | {median_step(envs, actions, steps):.1f} |")
    sync = gym.make_vec("TextGen-v0", num_envs=ROWS, vectorization_mode="sync", **keywords)
    microseconds = median_step(sync, np.full(ROWS, token), min(steps, 20))
    lines.append(f"| SyncVectorEnv of single environments | {microseconds:.1f} |")
    text = (
        f"{ROWS} rows × {COLUMNS} columns, one thread, Python {sys.version.split()[0]}, "
        f"numpy {np.__version__}, torch {torch.__version__}\n\n" + "\n".join(lines) + "\n"
    )
    publish("bookkeeping.md", "bookkeeping.py", text, "--save" in sys.argv)


if __name__ == "__main__":
    main()
