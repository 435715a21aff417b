"""``label``: sample pairs of responses, and let people say which is better."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

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
from agents.cli.sources import OfCandidates, open_candidates
from agents.preferences.labels import Labelling
from agents.training.console import console
from textenv.arguments import Range

OF_PAIRS = ("agents", "prompts", "chat", "pairs", "max_new_tokens", "seed")


@dataclass
class Label(OfCandidates):
    """Let people say on a page which of two responses is better: a file that reward-model reads.

    The pairs are sampled once. Every answer is on disk before the next pair is shown; the same
    command goes on where it was stopped. Several people answer under their names, all pairs each.
    """

    agents: list[str] = field(default_factory=lambda: ["bundled"])
    """One or two: folders of runs or of agents, or models as for train. One is compared with
    itself."""
    prompts: str | None = None
    """As for train. By default those of the task: that of the first agent which has learned."""
    chat: bool = False
    """Make each prompt that is a plain text a message of the user, in the model's chat template."""
    pairs: Annotated[int, Range(1)] = 100
    """Number of pairs."""
    output: Path = Path("runs/labels.jsonl")
    """The file of preferences, in the columns of TRL's preference format. The pairs and the answers
    lie beside it, in .pairs.json and .answers.jsonl."""
    labeller: str | None = None
    """The name of the person; by default the page asks. Others open the page without this name."""
    port: Annotated[int, Range(1, 65_535)] = 7860
    """Of this machine, where the page is; it can be reached from this machine only."""


def main(arguments: list[str]) -> None:
    """Sample, or find what was sampled; then ask people until they stop."""
    options = parsed(Label, arguments, "label")
    with checking_options():
        if len(options.agents) not in (1, 2):
            raise ValueError(f"--agents takes one or two, not {len(options.agents)}.")
        check_page(options.port, options.labeller)
        settings = {name: getattr(options, name) for name in OF_PAIRS}
        labelling = saved_labelling(options.output, settings)
        if labelling is None:
            labelling = _new_labelling(options, settings)

    def report() -> None:
        print_progress(labelling)
        if any(each["left"] + each["right"] for each in labelling.counts().values()):
            console.say(f"next   python -m agents reward-model --preferences {options.output}")

    with checking_options():
        ask_people(labelling, options.port, options.labeller, report)


def _new_labelling(options: Label, settings: dict[str, Any]) -> Labelling:
    given = options.given(NO_REWARD)
    if options.chat:
        given["chat"] = True
    opened = open_candidates(options.agents, given, options.device)
    agents = dict(zip(options.agents, opened, strict=True))
    couple = options.agents[0], options.agents[-1]
    pairs = pairs_of(agents, [couple], options.pairs, options.seed)
    return Labelling.create(options.output, pairs, settings)
