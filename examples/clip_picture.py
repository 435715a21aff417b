"""A plot of PPO's clipped objective for a ratio r = π(a) / π_old(a), and of its gradient.

    python examples/clip_picture.py

Where the gradient is 0, a step has no further effect: a good action is already likely enough, a bad
one unlikely enough. An action whose ratio moved in the *wrong* direction keeps its gradient; dual
clip limits it.
"""

import torch
from matplotlib.figure import Figure

from agents.evaluation.plots import save_figure
from agents.functional import surrogates

CLIP_RANGE, DUAL_CLIP = 0.2, 3.0
LOSSES = {
    "r · A": lambda new, old, a: surrogates.importance_weighted(new, old, a),
    "clipped": lambda new, old, a: surrogates.clipped(new, old, a, CLIP_RANGE),
    "dual clip": lambda new, old, a: surrogates.dual_clipped(new, old, a, CLIP_RANGE, DUAL_CLIP),
}
STYLES = {
    "r · A": dict(color="grey", linestyle="--", linewidth=1),
    "clipped": dict(color="tab:blue", linewidth=2.2),
    "dual clip": dict(color="tab:orange", linewidth=2.2, linestyle=(0, (4, 2))),
}


def objective(name: str, ratios: torch.Tensor, advantage: float):
    """The objective (minus the loss) at each ratio, and its derivative with respect to it."""
    ratios = ratios.clone().requires_grad_()
    advantages = torch.full_like(ratios, advantage)
    losses = LOSSES[name](ratios.log(), torch.zeros_like(ratios), advantages)
    (gradient,) = torch.autograd.grad(-losses.sum(), ratios)
    return -losses.detach(), gradient


def main(points: int = 2000) -> None:
    print("derivative of the objective by r\n     r   " + "".join(f"{n:>11}" for n in LOSSES) * 2)
    print(" " * 9 + f"{'A = +1':>33}{'A = −1':>33}")
    for r in torch.tensor([0.5, 0.9, 1.1, 1.5, 4.0]):
        slopes = [objective(name, r, a)[1].item() for a in (1.0, -1.0) for name in LOSSES]
        print(f"{r.item():6.1f}   " + "".join(f"{slope:11.0f}" for slope in slopes))

    figure = Figure(figsize=(9, 5.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col", height_ratios=(2, 1))
    for column, (advantage, end) in enumerate(((1.0, 2.0), (-1.0, 4.0))):
        ratios = torch.linspace(0.01, end, points)
        above, below = panels[:, column]
        for name in LOSSES:
            if name == "dual clip" and advantage > 0:
                continue  # there it is the same as the clip
            values, slopes = objective(name, ratios, advantage)
            above.plot(ratios, values, label=name, **STYLES[name])
            below.plot(ratios, slopes, **STYLES[name])
        for axes in (above, below):
            axes.axvspan(1 - CLIP_RANGE, 1 + CLIP_RANGE, color="black", alpha=0.06, linewidth=0)
        above.plot(1, advantage, "o", color="black", label="r = 1, where a rollout begins")
        kind = "good" if advantage > 0 else "bad"
        above.set(title=f"A = {advantage:+.0f}: the action was {kind}", ylabel="objective")
        above.legend(loc="upper left" if advantage > 0 else "lower left", frameon=False)
        low, high = sorted((0.0, advantage))
        below.set(xlabel="ratio r", ylabel="its gradient", ylim=(low - 0.2, high + 0.2))
    print("plot ", save_figure(figure, "runs/clip_picture.png"))


if __name__ == "__main__":
    main()
