"""Maximise R(x) = −(x − 2)² + 10 with its gradient, and then as a black box.

    python examples/parabola.py

A black box gives the reward of x, but not its gradient. So x is drawn from a Normal(μ, 1), whose
score ∇μ log π(x) = x − μ is known: E[score · R(x)] is the slope of the expected reward.

The plot at the right has a surprise: between μ = −1 and −0.24 the baseline E[R] makes the variance
larger. With ε = x − μ and d = 2 − μ, a guess's gradient is ε·(R − b), and its variance is

    (7 − d² − b)² + 6 + 8d²,

so the best constant is b = 7 − d², which is E[ε² R] / E[ε²], the mean of the rewards weighted by
the squared score. The mean E[R] = 9 − d² is always 2 above it. Without a baseline b = 0, which is
nearer where |7 − d²| < 2, so where d² is between 5 and 9. Elsewhere the mean is the better choice.
"""

import numpy as np
import torch
from matplotlib.figure import Figure

from agents import REINFORCE
from agents.evaluation.plots import save_figure

SHOWN = (0, 10, 13, 18, 30, 40)  # of the 61 values of μ in the table
START, LEARNING_RATE, MOMENTUM = -2.0, 0.01, 0.9


def query(x):
    return -((x - 2) ** 2) + 10


def by_hand(noise: np.ndarray, with_baseline: bool) -> list[float]:
    """μ ← μ + learning rate · (x − μ) / σ² · (R(x) − b), σ = 1, b a moving average of rewards,
    which begins with the first of them; before that b = 0."""
    path, baseline = [START], 0.0
    for i, draw in enumerate(noise):
        x = path[-1] + draw
        advantage = query(x) - baseline * with_baseline
        path.append(path[-1] + LEARNING_RATE * (x - path[-1]) * advantage)
        baseline = MOMENTUM * baseline + (1 - MOMENTUM) * query(x) if i else query(x)
    return path


def by_the_library(updates: int, with_baseline: bool) -> tuple[list[float], np.ndarray]:
    """The same with the agent that also trains language models. Also returns its noise."""
    agent = REINFORCE(
        "MlpPolicy", "Parabola-v0", n_envs=1, n_steps=1, seed=1, max_grad_norm=None,
        normalize_advantage=False, baseline_momentum=MOMENTUM if with_baseline else None,
        policy_kwargs={"net_arch": (), "learn_std": False, "log_std_init": 0.0},
    )  # fmt: skip
    mu = agent.policy.actor[-1].bias  # observations are 0, so the weights have no effect
    torch.nn.init.constant_(mu, START)
    agent.optimizer = torch.optim.SGD(agent.trained_parameters(), LEARNING_RATE)
    path, noise = [START], []
    for _ in range(updates):
        rollout = agent.collect()
        noise.append(rollout.actions.item() - path[-1])
        agent.update(rollout)
        path.append(mu.item())
    return path, np.array(noise)


def main(updates: int = 1500, draws: int = 100_000) -> None:
    paths = {"known gradient": [START]}
    for _ in range(updates):
        x = paths["known gradient"][-1]
        paths["known gradient"].append(x + 0.1 * -2 * (x - 2))
    print("known gradient: x =", *(f"{x:.2f}" for x in paths["known gradient"][:8]), "...")
    for name, with_baseline in (("REINFORCE", False), ("with baseline", True)):
        path, noise = by_the_library(updates, with_baseline)
        paths[name] = by_hand(noise, with_baseline)
        print(f"{name:13} μ = {np.mean(path[updates // 2 :]):.2f} ± "
              f"{np.std(path[updates // 2 :]):.2f} in the second half; by hand the same to "
              f"{np.abs(np.subtract(path, paths[name])).max():.0e}")  # fmt: skip

    mus, noise = np.linspace(-2, 4, 61), np.random.default_rng(0).normal(size=draws)
    rewards = query(mus[:, None] + noise)
    plain = (noise * rewards).var(axis=1)
    better = (noise * (rewards - rewards.mean(axis=1, keepdims=True))).var(axis=1)
    print(f"variance of one guess's gradient at the peak: {plain[40]:.0f}, with the baseline E[R] "
          f"{better[40]:.0f}")  # fmt: skip
    d = 2 - mus
    known = {"without": (7 - d**2) ** 2 + 6 + 8 * d**2, "with E[R]": 10 + 8 * d**2}
    print("at μ          " + "".join(f"{mus[i]:8.1f}" for i in SHOWN))
    for (name, formula), sampled in zip(known.items(), (plain, better), strict=True):
        print(f"{name:10}    " + "".join(f"{sampled[i]:8.1f}" for i in SHOWN))
        print("  by formula  " + "".join(f"{formula[i]:8.1f}" for i in SHOWN))
    print("between μ = -1 and -0.24, E[R] is worse than none: the best constant, 7 − (2 − μ)², is "
          "nearer to 0 there")  # fmt: skip

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = {"known gradient": "black", "REINFORCE": "tab:orange", "with baseline": "tab:blue"}
    for name, path in paths.items():
        left.plot(path, label=name, color=colours[name], linewidth=1.2)
    left.set(xlabel="updates, one guess each", ylabel="x or μ", title="Climbing to the peak at 2")
    right.plot(mus, plain, label="without baseline", color="tab:orange")
    right.plot(mus, better, label="with baseline E[R]", color="tab:blue")
    right.set(xlabel="μ", ylim=(0, None), title="Variance of the gradient of one guess")
    print("plot ", save_figure(figure, "runs/parabola.png"))


if __name__ == "__main__":
    main()
