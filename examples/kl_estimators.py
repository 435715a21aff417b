"""k1, k2 and k3 beside the exact KL: bias and spread of their values, and of their gradients.

    python examples/kl_estimators.py

An estimator of KL(π‖π_ref) = Σ_a π(a)·log(π(a) / π_ref(a)) sees only the token a that was drawn
(Schulman 2020, http://joschu.net/blog/kl-approx.html). Here π_ref is the next-token distribution of
the bundled model, and π is the same with changed logits: each by a random number, or all multiplied
by one number, which makes π sharper, as learning often does. The vocabulary can be listed, so that
means and deviations are exact; the last lines of the output repeat some of them with samples.

With x = log π(a) − log π_ref(a), k1 = x, k2 = x²/2 and k3 = exp(−x) − 1 + x. They have three uses:

value        Is the mean of k the KL? k1 and k3: yes. k2: only near π_ref.
in a loss    Is the mean of ∇k the gradient of the KL? k2: yes. k1: its mean is 0, because
             E[∇log π] = 0. k3: it is the gradient of the other KL, KL(π_ref‖π).
in a reward  Is the mean of k·∇log π that gradient? k1: yes. k2 and k3: near π_ref they have
             almost none of it, so their bias is about 1.

k1 in a reward and k2 in a loss have the same deviations because they are the same thing, sample by
sample: ∇(x²/2) = x·∇log π. k3 varies little for small random changes, but much for a sharper π: its
variance has the term Σ_a π_ref(a)²/π(a), which is large when π gives up tokens that π_ref still
has. Samples do not show this, as such tokens are hardly ever drawn.
"""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from agents.evaluation.plots import save_figure
from textenv.kl import estimators
from textenv.lm.loading import hide_progress_bars, load_model, load_tokenizer

PROMPT = "The film is"
ESTIMATORS = {"k1": estimators.k1, "k2": estimators.k2, "k3": estimators.k3}
PLACES = ("value", "in a loss", "in a reward")


def moments(estimator, logits: Tensor, reference: Tensor) -> dict[str, tuple[float, float]]:
    """Bias and standard deviation of one sample, by a sum over all tokens, for each place: of the
    value relative to the KL, of gradients (by the logits) relative to the norm of the KL's."""
    logits = logits.clone().requires_grad_()
    exact = estimators.exact(logits, reference)
    (exact_gradient,) = torch.autograd.grad(exact, logits)
    log_probs = logits.detach().log_softmax(-1).requires_grad_()
    values = estimator(log_probs, reference.log_softmax(-1))
    # The estimate of a token depends on its own log-probability alone, so this is each one's slope.
    (slopes,) = torch.autograd.grad(values.sum(), log_probs)
    probabilities, values = log_probs.detach().exp(), values.detach()

    mean = probabilities @ values
    deviation = (probabilities @ (values - mean).square()).sqrt()
    result = {"value": ((mean - exact).item() / exact.item(), (deviation / exact).item())}
    # ∇log π(a) by the logits is onehot(a) − π. A sample's gradient is a weight times that.
    squared_norms = 1 - 2 * probabilities + probabilities.square().sum()
    for place, weights in (("in a loss", slopes), ("in a reward", values)):
        mean_gradient = probabilities * (weights - probabilities @ weights)
        variance = probabilities @ (weights.square() * squared_norms) - mean_gradient.square().sum()
        norm = exact_gradient.norm()
        bias = (mean_gradient - exact_gradient).norm() / norm
        result[place] = (bias.item(), (variance.sqrt() / norm).item())
    return result


def at_distance(change: Tensor, reference: Tensor, nats: float) -> Tensor:
    """Logits reference + s·change with a KL of so many nats; s is found by bisection."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        too_far = estimators.exact(reference + middle * change, reference) > nats
        low, high = (low, middle) if too_far else (middle, high)
    return reference + low * change


def main(points: int = 25, draws: int = 200_000) -> None:
    hide_progress_bars()
    torch.manual_seed(0)
    ids = torch.tensor([load_tokenizer("bundled").encode(PROMPT)])
    with torch.no_grad():
        reference = load_model("bundled")(ids).logits[0, -1].double().log_softmax(-1)
    changes = {"random": torch.randn_like(reference), "sharper": reference}

    print(f"{len(reference)} tokens after {PROMPT!r}; bias and standard deviation of one sample,\n"
          "relative to the exact KL or to the norm of its gradient\n")  # fmt: skip
    print(f"{'change':9}{'KL':>6}  {'':4}" + "".join(f"{place:>20}" for place in PLACES))
    for name, change in changes.items():
        for nats in (0.001, 0.1, 0.5):
            logits = at_distance(change, reference, nats)
            for label, estimator in ESTIMATORS.items():
                found = moments(estimator, logits, reference)
                columns = "".join(f"{found[p][0]:+z10.3f} ±{found[p][1]:8.3g}" for p in PLACES)
                print(f"{name:9}{nats:6.3f}  {label:4}{columns}")

    logits = at_distance(changes["random"], reference, 0.1)
    log_probs, reference_log_probs = logits.log_softmax(-1), reference.log_softmax(-1)
    drawn = torch.multinomial(log_probs.exp(), draws, replacement=True)
    print(f"\nthe same values from {draws:,} samples, random change, KL 0.1")
    for label, estimator in ESTIMATORS.items():
        sampled = estimator(log_probs, reference_log_probs)[drawn] / 0.1
        error = sampled.std() / draws**0.5
        print(f"{label}   bias {sampled.mean() - 1:+z.3f} ± {error:.3f}, "
              f"deviation {sampled.std():.2f}")  # fmt: skip

    draw(changes, reference, np.geomspace(1e-3, 0.5, points))


def draw(changes: dict[str, Tensor], reference: Tensor, distances: np.ndarray) -> None:
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True)
    for row, (name, change) in zip(panels, changes.items(), strict=True):
        along = [at_distance(change, reference, nats) for nats in distances]
        for label, estimator in ESTIMATORS.items():
            found = [moments(estimator, logits, reference) for logits in along]
            for axes, place in zip(row, PLACES, strict=True):
                bias, deviation = np.abs([each[place] for each in found]).T
                (line,) = axes.loglog(distances, deviation)
                axes.loglog(distances, bias, color=line.get_color(), linestyle=":")
                axes.set(title=f"{place}: {name}", ylim=(1e-3, 1e3))
                if axes is panels[0, 2]:  # one legend for all
                    line.set_label(label)
        row[0].set(ylabel="relative to the exact")
    for axes in panels[1]:
        axes.set(xlabel="exact KL, nats")
    panels[0, 2].plot([], [], color="grey", label="standard deviation")
    panels[0, 2].plot([], [], color="grey", linestyle=":", label="bias")
    panels[0, 2].legend(frameon=False, loc="upper right", ncols=2)
    print("plot ", save_figure(figure, "runs/kl_estimators.png"))


if __name__ == "__main__":
    main()
