"""``duel``: which of two or more agents writes better texts, by any reward as the judge."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import tyro
from rich.table import Table

from agents.cli.candidates import given_options, open_candidates, reward_name
from agents.cli.errors import checking_options
from agents.cli.options import check_options
from agents.duels import duel, tournament
from agents.progress import console
from agents.sampling import sample
from textenv.lm.loading import hide_progress_bars


@dataclass
class Duel:
    """Let agents answer the same prompts, and let a judge say whose answer is better."""

    agents: tyro.conf.Positional[list[str]]
    """Two or more: folders of runs or of agents, or models as for train."""
    judge: str | None = None
    """The reward whose higher score wins, as for train; also the folder of a reward model. By
    default that of the task."""
    prompts: str | None = None
    """As for train. By default those by which the first agent that has learned was evaluated, or
    those of its task."""
    pairs: int = 512
    """Number of prompts, each answered once by each agent."""
    margin: float = 0.0
    """Differences of the scores up to it are ties."""
    max_new_tokens: int | None = None
    """Token budget of a response; by default that of the task."""
    seed: int = 0
    """Seed of prompts and texts."""
    device: str = "auto"
    """"auto" uses an accelerator if there is one."""


def main(arguments: list[str]) -> None:
    """Sample, judge, print."""
    options = tyro.cli(Duel, args=arguments, prog="python -m agents duel")
    hide_progress_bars()
    with checking_options():
        check_options(options)
        if len(options.agents) < 2:
            raise ValueError("A duel needs at least two agents.")
        of_task = {"prompts": "prompts", "reward": "judge", "max_new_tokens": "max_new_tokens"}
        given = given_options(options, of_task)
        agents = open_candidates(options.agents, given, options.device, held_out=True)
    shown = [
        name if options.agents.count(name) == 1 else f"{name} ({number})"
        for number, name in enumerate(options.agents, 1)
    ]
    scores = {
        name: sample(agent, options.pairs, options.seed, draw=number).scores
        for number, (name, agent) in enumerate(zip(shown, agents, strict=True))
    }
    console.print(f"judge {reward_name(agents[0])}", markup=False, soft_wrap=True)
    print_duels(scores, options.margin)


def print_duels(scores: dict[str, list[float]], margin: float) -> None:
    """A table of all pairs; of more than two agents also their strengths."""
    table = Table(box=None, pad_edge=False)
    for title in ("", "wins", "ties", "losses", "win rate, 95 %", "p"):
        table.add_column(title, justify="left" if title == "" else "right", no_wrap=bool(title))
    for one, other in combinations(scores, 2):
        result = duel(scores[one], scores[other], margin)
        rate = result.win_rate
        table.add_row(
            f"{one} against {other}", str(result.wins), str(result.ties), str(result.losses),
            f"{rate.mean:.1%} ({rate.low:.1%} to {rate.high:.1%})", f"{result.p_value:.2g}",
        )  # fmt: skip
    console.print(table)
    if len(scores) > 2:
        strengths = Table(box=None, pad_edge=False)
        for title in ("", "Bradley-Terry strength, 95 %"):
            strengths.add_column(title, justify="left" if title == "" else "right", no_wrap=True)
        ranked = sorted(tournament(scores, margin).items(), key=lambda item: -item[1].mean)
        for name, strength in ranked:
            strengths.add_row(
                name, f"{strength.mean:+.2f} ({strength.low:+.2f} to {strength.high:+.2f})"
            )
        console.print("", strengths)
    console.print(
        "[dim]win rate: of the decided pairs, Wilson interval; p: two-sided exact sign test[/]",
        soft_wrap=True,
    )
