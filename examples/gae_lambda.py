"""What λ of GAE trades: bias against variance, on a random walk whose values are known.

    python examples/gae_lambda.py

A walker goes left or right with equal probability between nine states; a walk ends beyond the left
state with a score of −1, or beyond the right one with +1 (Sutton & Barto 2018, example 6.2, with
more states). The value of state i is V(i) = i/5 − 1, so that a step to the right has the advantage
+0.2 and one to the left −0.2. As in text, the only score comes at the end, and γ = 1.

GAE (Schulman et al. 2016, eq. 16) mixes what a critic says of the next state (λ = 0) with what
happened until the end (λ = 1). Let e = critic − V be the critic's error, 0 at both ends. The bias
of the estimate for a step from s to s' = s_1 is

    e(s') − e(s) + Σ_{k≥1} λ^k E[e(s_{k+1}) − e(s_k)],

which is only −e(s) at λ = 1, the same for both actions: a baseline, which changes no gradient on
average. So the bias that counts is that of (A(right) − A(left)) / 2. The variance is that of the
rest of the walk. At λ = 0 none is left, so one sample is enough there if the critic is correct; a
wrong critic needs a larger λ, and a larger λ needs more samples. More samples make the variance of
a mean smaller, but not its bias: so the best λ also depends on how many there are.
"""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from agents.evaluation.plots import save_figure
from agents.functional.advantages import generalized_advantages

STATES = 9
ADVANTAGE = 2 / (STATES + 1)  # of a step to the right
# Indexed by the position, both ends included; what follows an end is worth nothing more.
VALUES = torch.arange(STATES + 2) * ADVANTAGE - 1
VALUES[[0, -1]] = 0.0
ROUGH = torch.randn(STATES + 2, generator=torch.Generator().manual_seed(0)) * (VALUES != 0)
CRITICS = {  # and their errors
    "correct": 0 * VALUES,
    "half of V": -0.5 * VALUES,
    "V + noise": 0.2 * ROUGH,
    "0": -VALUES,
}
SAMPLES = (1, 10, 100, 1000)


def inner(position: Tensor) -> Tensor:
    return (position > 0) & (position <= STATES)


def walk(walks: int) -> Tensor:
    """Positions [walks · STATES, T + 1]: from each state, as many walks, until all have ended."""
    generator = torch.Generator().manual_seed(1)
    path = [torch.arange(1, STATES + 1).repeat(walks)]
    while inner(path[-1]).any():
        steps = 2 * torch.randint(2, path[-1].shape, generator=generator) - 1
        path.append(path[-1] + steps * inner(path[-1]))
    return torch.stack(path, dim=1)


def estimates(path: Tensor, critic: Tensor, gae_lambda: float) -> Tensor:
    """The advantage [walks, STATES] of the first step of each walk."""
    now, following = path[:, :-1], path[:, 1:]
    mask, episode_end = inner(now), inner(now) & ~inner(following)
    scores = torch.where(following == 0, -1.0, 1.0) * episode_end
    advantages = generalized_advantages(
        scores, critic[now], critic[following], episode_end, 1.0, gae_lambda, mask
    )
    return advantages[:, 0].view(-1, STATES)


def exact_bias(error: Tensor, gae_lambda: float) -> Tensor:
    """The bias [STATES] of (A(right) − A(left)) / 2, by the formula above."""
    inside = torch.diag(torch.ones(STATES - 1), 1) / 2
    transitions = inside + inside.T  # from each state to each other one
    change = transitions @ error[1:-1] - error[1:-1]  # E[e(s') − e(s)]
    later = torch.zeros(STATES + 2)
    later[1:-1] = torch.linalg.solve(torch.eye(STATES) - gae_lambda * transitions, change)
    after = error + gae_lambda * later  # e(s') and all that follows it
    return (after[2:] - after[:-2]) / 2


def main(walks: int = 2000, points: int = 21) -> None:
    path = walk(walks)
    right = (path[:, 1] > path[:, 0]).view(-1, STATES)
    lambdas = np.linspace(0, 1, points)
    print(f"{len(path):,} walks, mean length {inner(path).sum() / len(path):.1f} steps")
    print("critic        λ    bias   sampled   deviation of one estimate")
    biases, deviations = {}, {}
    for name, error in CRITICS.items():
        rows = []
        for gae_lambda in lambdas:
            found = estimates(path, VALUES + error, gae_lambda)
            means, variances = [], []
            for chosen in (right, ~right):
                count = chosen.sum(dim=0)
                mean = (found * chosen).sum(dim=0) / count
                means.append(mean)
                variances.append(((found - mean).square() * chosen).sum(dim=0) / (count - 1))
            sampled = (means[0] - means[1]) / 2 - ADVANTAGE
            bias = exact_bias(error, gae_lambda)
            # Root mean squares over the states, and over both actions.
            rows.append([x.square().mean().sqrt().item() for x in (bias, sampled)])
            rows[-1].append(torch.stack(variances).mean().sqrt().item())
        for i in range(0, points, (points - 1) // 5):
            print(f"{name:11}{lambdas[i]:4.1f}   {rows[i][0]:.3f}   {rows[i][1]:7.3f}"
                  f"   {rows[i][2]:.3f}")  # fmt: skip
        biases[name], _, deviations[name] = np.array(rows).T

    print("\nthe best λ for the mean of" + "".join(f"{n:7,}" for n in SAMPLES) + "   estimates")
    for name in CRITICS:
        errors = [biases[name] ** 2 + deviations[name] ** 2 / n for n in SAMPLES]
        print(f"{name:26}" + "".join(f"{lambdas[error.argmin()]:7.2f}" for error in errors))
    draw(lambdas, biases, deviations)


def draw(lambdas: np.ndarray, biases: dict, deviations: dict, samples: int = 100) -> None:
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name in CRITICS:
        left.plot(lambdas, biases[name])
        middle.plot(lambdas, deviations[name], label=f"critic: {name}")
        right.plot(lambdas, np.sqrt(biases[name] ** 2 + deviations[name] ** 2 / samples))
    left.set(title="bias", xlabel="λ", ylabel="units of the score")
    middle.set(title="standard deviation of one estimate", xlabel="λ", ylim=(0, None))
    right.set(title=f"error of the mean of {samples}", xlabel="λ", ylim=(0, None))
    print("plot ", save_figure(figure, "runs/gae_lambda.png"))


if __name__ == "__main__":
    main()
