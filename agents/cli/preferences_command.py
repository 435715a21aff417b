"""``preferences``: sample pairs of responses, and label them by a reward with noise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from agents import files
from agents.cli.errors import checking_options
from agents.cli.parsing import parsed
from agents.cli.sources import OfCandidates, open_candidates, reward_name
from agents.preferences.pairs import as_lines, ceiling, label, sample_pairs
from agents.training.console import console
from textenv.arguments import Range


@dataclass
class Preferences(OfCandidates):
    """Sample pairs of responses, and label which is better: a file that reward-model reads.

    The labels are those of a reward with the noise of people: the response with the score s_1 is
    preferred to that with s_2 with the probability σ((s_1 − s_2) / label_temperature).
    """

    reward: str | None = None
    """The reward that labels, as for train; also the folder of a reward model. By default that of
    the task: of the first agent which has learned, else sentiment."""
    label_temperature: float = 0.2
    """Temperature of the labels' noise, in units of the score; 0 for none."""
    pairs: Annotated[int, Range(1)] = 2000
    """Number of pairs."""
    output: Path = Path("runs/preferences.jsonl")
    """The file, JSON lines in the columns of TRL's preference format."""
    seed: int = 0
    """Seed of prompts, texts and labels."""


def main(arguments: list[str]) -> None:
    """Sample, label, write."""
    options = parsed(Preferences, arguments, "preferences")
    with checking_options():
        if len(options.agents) not in (1, 2):
            raise ValueError(f"--agents takes one or two, not {len(options.agents)}.")
        if options.output.exists():
            raise FileExistsError(f"{str(options.output)!r} exists: choose another --output.")
        label([], options.label_temperature, options.seed)  # checks its arguments
        agents = open_candidates(options.agents, options.given(options.reward), options.device)
    first, second = agents[0], agents[-1]
    names = options.agents[0], options.agents[-1]
    pairs = sample_pairs(first, second, options.pairs, options.seed, names)
    labelled = label(pairs, options.label_temperature, options.seed)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(options.output, as_lines(labelled))
    console.say(
        f"{len(labelled)} preferences by {reward_name(first)}, temperature "
        f"{options.label_temperature:g}: a perfect judge agrees with {ceiling(labelled):.1%}\n"
        f"file   {options.output}\n"
        f"next   python -m agents reward-model --preferences {options.output}"
    )
