"""Our PPO, A2C and TRPO beside stable-baselines3's and sb3-contrib's, on classic control.

    pip install -e ".[bench]"
    python tests/benchmarks/classic_control.py --workers 2

Equal hyper-parameters, equal timesteps, five seeds each. A candidate's final return is the mean of
20 greedy episodes of the trained policy. Runs of the candidates alternate, each in a process of its
own with one thread. Ours take Gymnasium's native vector environments where there are some, theirs
their `DummyVecEnv`: the default of each library.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import dataclass

import numpy as np
import tyro
from saved import RESULTS, publish

CARTPOLE = {
    "PPO": {
        "n_envs": 8, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "learning_rate": 1e-3,
        "gamma": 0.98, "gae_lambda": 0.8, "clip_range": 0.2, "max_grad_norm": 0.5, "decay": True,
    },
    "A2C": {
        "n_envs": 8, "n_steps": 5, "learning_rate": 7e-4, "gamma": 0.99, "gae_lambda": 1.0,
        "max_grad_norm": 0.5,
    },
    "TRPO": {
        "n_envs": 2, "n_steps": 512, "batch_size": 512, "learning_rate": 1e-3, "gamma": 0.98,
        "gae_lambda": 0.95, "n_critic_updates": 20,
    },
}  # fmt: skip
PENDULUM = {
    "PPO": {
        "n_envs": 4, "n_steps": 1024, "batch_size": 64, "n_epochs": 10, "learning_rate": 1e-3,
        "gamma": 0.9, "gae_lambda": 0.95, "clip_range": 0.2, "max_grad_norm": 0.5,
    }
}  # fmt: skip
TASKS = {"CartPole-v1": CARTPOLE, "Pendulum-v1": PENDULUM}


@dataclass
class Options:
    seeds: int = 5
    """Of each candidate."""
    timesteps: int = 100_000
    """Of each run."""
    workers: int = 1
    """Runs at once, one thread each."""
    save: bool = False
    """Replace what is kept in results."""


def schedules(keywords: dict) -> dict:
    """rl-zoo's CartPole settings let learning rate and clip range fall to 0 linearly."""
    keywords = dict(keywords)
    if keywords.pop("decay", False):
        for name in ("learning_rate", "clip_range"):
            start = keywords[name]
            keywords[name] = lambda remaining, start=start: start * remaining
    return keywords


def run(job: tuple[str, str, str, int, int]) -> dict:
    """One training run: returns its final return, its learning curve and its seconds."""
    task, algorithm, library, seed, timesteps = job
    import gymnasium as gym
    import torch

    torch.set_num_threads(1)
    keywords = schedules(TASKS[task][algorithm])
    curve: list[tuple[int, float]] = []
    train = train_ours if library == "ours" else train_theirs
    agent, seconds = train(task, algorithm, keywords, seed, timesteps, curve)
    from agents.evaluation import evaluate_returns

    judge = gym.make_vec(task, num_envs=20, vectorization_mode="sync")
    final = evaluate_returns(agent, judge, 20, seed=10_000)
    return {
        "task": task, "algorithm": algorithm, "library": library, "seed": seed,
        "final": float(final.mean()), "seconds": seconds, "curve": curve,
    }  # fmt: skip


def train_ours(task, algorithm, keywords, seed, timesteps, curve):
    from stable_baselines3.common.callbacks import BaseCallback

    import agents

    kind = {"PPO": agents.PPO, "A2C": agents.ActorCritic, "TRPO": agents.TRPO}[algorithm]
    if algorithm != "TRPO":
        keywords |= {"vf_coef": 0.5, "ent_coef": 0.0}
    if algorithm == "A2C":
        keywords["normalize_advantage"] = False
    agent = kind("MlpPolicy", task, seed=seed, device="cpu", **keywords)

    class Curve(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            returns = self.locals["rollout"].episodes["return"]
            if returns:
                curve.append((agent.num_timesteps, float(np.mean(returns))))

    began = time.perf_counter()
    agent.learn(timesteps, callback=Curve())
    return agent, time.perf_counter() - began


def train_theirs(task, algorithm, keywords, seed, timesteps, curve):
    from stable_baselines3 import A2C, PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    if algorithm == "TRPO":
        from sb3_contrib import TRPO as kind
    else:
        kind = {"PPO": PPO, "A2C": A2C}[algorithm]
    env = make_vec_env(task, keywords.pop("n_envs"), seed=seed)
    if algorithm == "A2C":
        keywords["use_rms_prop"] = False  # Adam, as ours
    model = kind("MlpPolicy", env, seed=seed, device="cpu", **keywords)

    class Curve(BaseCallback):
        def _on_rollout_start(self) -> None:
            self.seen = 0

        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    finished.append(info["episode"]["r"])
            return True

        def _on_rollout_end(self) -> None:
            if finished:
                curve.append((self.num_timesteps, float(np.mean(finished))))
                finished.clear()

    finished: list[float] = []
    began = time.perf_counter()
    model.learn(timesteps, callback=Curve())
    return model, time.perf_counter() - began


def report(results: list[dict], options: Options) -> str:
    """A table of final returns and of seconds, and the picture of the learning curves."""
    from matplotlib.figure import Figure

    from agents.evaluation.plots import band, save_figure
    from agents.evaluation.statistics import difference, interval

    lines = [
        "| task | algorithm | ours | theirs | ours − theirs | our time / their time |",
        "|---|---|---|---|---|---|",
    ]
    panels = [(task, name) for task, names in TASKS.items() for name in names]
    figure = Figure(figsize=(4 * len(panels), 3.4), layout="constrained")
    for axes, (task, algorithm) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        finals, seconds = {}, {}
        for library in ("ours", "theirs"):
            runs = [
                result for result in results
                if (result["task"], result["algorithm"], result["library"])
                == (task, algorithm, library)
            ]  # fmt: skip
            finals[library] = [result["final"] for result in runs]
            seconds[library] = np.median([result["seconds"] for result in runs])
            grid = np.linspace(options.timesteps / 20, options.timesteps, 30)
            curves = [smooth(*zip(*result["curve"], strict=True), grid) for result in runs]
            band(axes, library, grid, np.array(curves))
        axes.set(title=f"{algorithm}, {task}", xlabel="timesteps")
        lines.append(
            f"| {task} | {algorithm} | {interval(finals['ours'])} | {interval(finals['theirs'])} | "
            f"{difference(finals['ours'], finals['theirs'])} | "
            f"{seconds['ours'] / seconds['theirs']:.2f} |"
        )
    figure.axes[0].set_ylabel("return of an episode")
    if options.save:
        save_figure(figure, RESULTS / "classic_control.png")
    return "\n".join(lines)


def smooth(steps, returns, grid: np.ndarray) -> np.ndarray:
    """Mean return of the rollouts in a window of a tenth of the run, at each point of the grid."""
    steps, returns = np.array(steps), np.array(returns)
    half = grid[-1] / 20
    windows = [returns[np.abs(steps - point) <= half] for point in grid]
    return np.array([window.mean() if len(window) else np.nan for window in windows])


def main(options: Options) -> None:
    jobs = [
        (task, algorithm, library, seed, options.timesteps)
        for seed in range(options.seeds)
        for task, algorithms in TASKS.items()
        for algorithm in algorithms
        for library in ("ours", "theirs")
    ]
    context = multiprocessing.get_context("spawn")
    results = []
    with context.Pool(options.workers, maxtasksperchild=1) as pool:
        for result in pool.imap_unordered(run, jobs, chunksize=1):
            results.append(result)
            print({key: value for key, value in result.items() if key != "curve"}, flush=True)
    table = report(results, options)
    command = f"classic_control.py --workers {options.workers}"
    if options.save:
        (RESULTS / "classic_control.json").write_text(
            json.dumps([{k: v for k, v in r.items() if k != "curve"} for r in results], indent=1)
        )
    text = (
        f"{options.seeds} seeds, {options.timesteps} timesteps each; "
        "final return: mean of 20 greedy episodes; mean over seeds with 95 % bootstrap interval; "
        f"time: ratio of medians.\n\n{table}\n\n![learning curves](classic_control.png)\n"
    )
    publish("classic_control.md", command, text, options.save)


if __name__ == "__main__":
    main(tyro.cli(Options))
