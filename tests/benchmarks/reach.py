"""What can be reached at all with a model: the optimum and best-of-n, without any learning.

    python tests/benchmarks/reach.py --model smollm2 --kl-coef 0.05 --episodes 2048
    python tests/benchmarks/reach.py --point ppo 0.650 4.63 --point reinforce 0.734 5.33

Points are other results on the same task, each a name, a score and a KL in nats per episode, which
are shown beside it. Samples that ``--file`` has are not drawn again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from agents import PPO
from agents.evaluation.optimum import Attainable, reference_scores
from agents.evaluation.plots import draw_plane, save_figure
from textenv.lm.loading import hide_progress_bars


@dataclass
class Options:
    """Sample the untouched model, and print a table in Markdown."""

    model: str = "smollm2"
    """As in `python -m agents train`."""
    reward: str = "sentiment"
    """As in `python -m agents train`."""
    kl_coef: float = 0.05
    """β of the return."""
    max_new_tokens: int = 24
    """Token budget of a response."""
    episodes: int = 2048
    """Samples, distributed evenly over the prompts."""
    rows: int = 128
    """Samples at once."""
    file: Path = Path("runs/reach.json")
    """The scores."""
    point: Annotated[list[tuple[str, float, float]], tyro.conf.UseAppendAction] = field(
        default_factory=list
    )
    """Name, score and KL of a result."""
    plot: Path | None = None
    """The score-KL plane."""


def main(options: Options) -> None:
    """Sample or read, print, draw."""
    hide_progress_bars()
    if not options.file.is_file():
        agent = PPO(  # never learns
            "CausalLMPolicy", "TextGen-v0", n_envs=options.rows, device="cpu",
            policy_kwargs={"model": options.model},
            env_kwargs={
                "reward": options.reward, "reference": options.model, "kl_coef": options.kl_coef,
                "max_new_tokens": options.max_new_tokens,
            },
        )  # fmt: skip
        scores = reference_scores(agent, None, options.episodes, seed=1_000_001)
        options.file.parent.mkdir(parents=True, exist_ok=True)
        Attainable(scores, options.kl_coef).save(options.file)
    reach = Attainable.load(options.file)
    optimum = reach.optimum
    print("| | return | share | score | KL, nats per episode |\n|---|---|---|---|---|")
    rows = [(name, point.score, point.kl) for name, point in reach.points().items()]
    for name, score, kl in [*rows, *options.point, ("untouched model", optimum.start, 0.0)]:
        value = score - reach.kl_coef * kl
        print(f"| {name} | {value:.3f} | {optimum.share(value):.0%} | {score:.3f} | {kl:.2f} |")
    print(
        f"\n{len(reach.scores)} prompts of {optimum.samples} samples, which are as good as "
        f"{optimum.effective_samples:.1f} of the optimum; standard error "
        f"{optimum.standard_error:.3f}, bias {optimum.bias:.3f}"
    )
    print(optimum.warning or "")
    if options.plot is not None:
        draw(reach, options)


def draw(reach: Attainable, options: Options) -> None:
    """The points in the score-KL plane."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axes = figure.subplots()
    for name, score, kl in options.point:
        axes.scatter([kl], [score], s=26, zorder=3, label=name)
    draw_plane(axes, reach, max((kl for _, _, kl in options.point), default=0.0))
    axes.set(xlabel="KL to the reference, nats per episode", ylabel="mean score")
    axes.legend(frameon=False, loc="lower right")
    save_figure(figure, options.plot)


if __name__ == "__main__":
    main(tyro.cli(Options))
