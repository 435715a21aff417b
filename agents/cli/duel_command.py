"""``duel``: which of two or more agents writes better texts; the judge is a reward or a person."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from agents.cli.errors import checking_options
from agents.cli.parsing import parsed
from agents.cli.people import (
    NO_REWARD,
    ask_people,
    check_page,
    pairs_of,
    print_progress,
    saved_labelling,
)
from agents.cli.sources import OfCandidates, open_candidates, reward_name
from agents.evaluation.sampling import sample
from agents.evaluation.statistics import Interval
from agents.preferences.duels import Duel as Result
from agents.preferences.duels import duel, judged_duel, judged_tournament, tournament
from agents.preferences.labels import Labelling
from agents.training.console import console
from textenv.arguments import Range

PERSON = "person"
PROMPTS, PROMPTS_OF_A_PERSON = 512, 50
OF_PAIRS = ("agents", "prompts", "pairs", "max_new_tokens", "seed")


@dataclass
class Duel(OfCandidates):
    """Let agents answer the same prompts, and let a judge say whose answer is better."""

    agents: tyro.conf.Positional[list[str]]
    """Two or more: folders of runs or of agents, models as for train, or "untouched", the model
    from which the first of them has learned."""
    judge: str | None = None
    """The reward whose higher score wins, as for train; also the folder of a reward model. By
    default that of the task. "person": somebody, on the page of the command label."""
    prompts: str | None = None
    """As for train. By default those by which the first agent that has learned was evaluated, or
    those of its task."""
    pairs: Annotated[int | None, Range(1)] = None
    """Number of prompts, each answered once by each agent; by default 512. With a person, number of
    pairs of each two agents, whose texts differ; by default 50."""
    margin: float = 0.0
    """Differences of the scores up to it are ties."""
    output: Path = Path("runs/duel.jsonl")
    """With a person: as for label."""
    labeller: str | None = None
    """With a person: as for label."""
    port: Annotated[int, Range(1, 65_535)] = 7860
    """With a person: as for label."""


def main(arguments: list[str]) -> None:
    """Sample, judge, print."""
    options = parsed(Duel, arguments, "duel")
    with checking_options():
        if len(options.agents) < 2:
            raise ValueError("A duel needs at least two agents.")
        shown = [
            name if options.agents.count(name) == 1 else f"{name} ({number})"
            for number, name in enumerate(options.agents, 1)
        ]
        if options.judge == PERSON:
            _by_people(options, shown)
            return
        given = options.given(options.judge)
        agents = open_candidates(options.agents, given, options.device, held_out=True)
    scores = {
        name: sample(agent, options.pairs or PROMPTS, options.seed, draw=number).scores
        for number, (name, agent) in enumerate(zip(shown, agents, strict=True))
    }
    console.say(f"judge {reward_name(agents[0])}")
    print_duels(
        {
            (one, other): duel(scores[one], scores[other], options.margin)
            for one, other in combinations(scores, 2)
        },
        tournament(scores, options.margin) if len(scores) > 2 else {},
    )


def _by_people(options: Duel, names: list[str]) -> None:
    """Ask people on the page, and print what their answers say."""
    check_page(options.port, options.labeller)
    couples = list(combinations(names, 2))
    options.pairs = options.pairs or PROMPTS_OF_A_PERSON
    settings = {name: getattr(options, name) for name in OF_PAIRS}
    labelling = saved_labelling(options.output, settings)
    if labelling is None:
        given = options.given(NO_REWARD)
        opened = open_candidates(options.agents, given, options.device, held_out=True)
        agents = dict(zip(names, opened, strict=True))
        pairs = pairs_of(agents, couples, options.pairs, options.seed)
        labelling = Labelling.create(options.output, pairs, settings)

    def report() -> None:
        print_progress(labelling)
        judgements = labelling.judgements()
        if judgements:
            results = {couple: judged_duel(judgements, *couple) for couple in couples}
            strengths = judged_tournament(names, judgements) if len(names) > 2 else {}
            print_duels(results, strengths)

    ask_people(labelling, options.port, options.labeller, report)


def print_duels(
    results: Mapping[tuple[str, str], Result], strengths: Mapping[str, Interval]
) -> None:
    """A table of all pairs, and one of the strengths, if there are any."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="fold", min_width=12)
    for title in ("wins", "ties", "losses", "win rate, 95 %", "p"):
        table.add_column(title, justify="right", no_wrap=True)
    for (one, other), result in results.items():
        rate = result.win_rate
        table.add_row(
            f"{one} against {other}", str(result.wins), str(result.ties), str(result.losses),
            f"{rate.mean:.1%} ({rate.low:.1%} to {rate.high:.1%})", f"{result.p_value:.2g}",
        )  # fmt: skip
    console.print_uncut(table)
    if strengths:
        ranking = Table(box=None, pad_edge=False)
        ranking.add_column("", overflow="fold", min_width=12)
        ranking.add_column("Bradley-Terry strength, 95 %", justify="right", no_wrap=True)
        for name, strength in sorted(strengths.items(), key=lambda item: -item[1].mean):
            ranking.add_row(
                name, f"{strength.mean:+.2f} ({strength.low:+.2f} to {strength.high:+.2f})"
            )
        console.say("")
        console.print_uncut(ranking)
    console.say(
        ("win rate: of the decided pairs, Wilson interval; p: two-sided exact sign test", "dim")
    )
