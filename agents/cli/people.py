"""What ``label`` and ``duel`` share: pairs that are fixed once, and the page about them."""

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from agents.preferences.labels import Labelling
from agents.preferences.labels.answers import checked_name
from agents.preferences.labels.labelling import check_new, files
from agents.preferences.pairs import Pair, sample_pairs
from agents.runs import Interrupted
from agents.runs.signals import Signals
from agents.training.console import console

CHECK_EVERY = 0.5  # seconds between two looks at whether somebody has finished
# A person judges here, so that no reward is needed; this one costs nothing and imports no code.
NO_REWARD = "length"


def check_page(port: int, labeller: str | None) -> None:
    """Raise an error if the page cannot be shown, before anything is sampled."""
    if importlib.util.find_spec("gradio") is None:
        raise ModuleNotFoundError(
            "The page needs the package gradio, which is not installed: "
            "pip install 'gradio>=6.31,<7'."
        )
    if labeller is not None:
        checked_name(labeller)
    from agents.preferences.labels.page import check_port  # takes seconds to import

    check_port(port)


def saved_labelling(path: Path, settings: Mapping[str, Any]) -> Labelling | None:
    """The labelling that began with the same command; None if none has begun."""
    if path.is_dir():
        raise FileExistsError(f"{str(path)!r} is a folder: give --output a file.")
    if not files(path)[1].exists():
        check_new(path)
        return None
    labelling = Labelling(path)
    for name, value in settings.items():
        before = labelling.settings.get(name)
        if before != value:
            raise ValueError(
                f"The pairs of {str(path)!r} were sampled with {name}={before!r}, not {value!r}: "
                "give the same options to go on, or another --output."
            )
    return labelling


def pairs_of(
    agents: Mapping[str, Any], couples: Sequence[tuple[str, str]], count: int, seed: int
) -> list[Pair]:
    """``count`` pairs of each couple of agents, each couple on prompts of its own."""
    pairs: list[Pair] = []
    for number, (first, second) in enumerate(couples):
        names, seed_of_couple = (first, second), seed + 1000 * number
        pairs += sample_pairs(agents[first], agents[second], count, seed_of_couple, names)
    return pairs


def ask_people(
    labelling: Labelling, port: int, labeller: str | None, report: Callable[[], None]
) -> None:
    """Show the page until Ctrl-C, and report whenever somebody has answered all, and at the end."""
    from agents.preferences.labels.page import serving

    total, finished, reported = len(labelling.pairs), set[str](), None
    with Signals() as signals, ExitStack() as stack:
        try:
            with signals.waiting():
                address = stack.enter_context(serving(labelling, port, labeller))
                console.say(
                    f"open   {address}\n"
                    f"file   {labelling.path}: {total} pairs; all answers are stored, so that the "
                    "same command goes on\n",
                    ("Ctrl-C ends it", "dim"),
                )
            while True:
                with signals.waiting():  # not in the middle of reading the answers
                    before, finished = finished, _finished(labelling)
                    if finished - before:
                        report()
                        reported = labelling.counts()
                    console.file.flush()  # a file that somebody follows
                time.sleep(CHECK_EVERY)
        except Interrupted:
            pass
    if labelling.counts() != reported:
        report()


def print_progress(labelling: Labelling) -> None:
    """A line for each person."""
    for name, counts in labelling.counts().items():
        answered = sum(counts.values())
        console.say(
            f"{name}: {answered} of {len(labelling.pairs)} pairs answered, "
            f"{counts['left'] + counts['right']} preferences, {counts['tie']} ties, "
            f"{counts['skip']} skipped"
        )


def _finished(labelling: Labelling) -> set[str]:
    counts = labelling.counts()
    return {
        name for name, each in counts.items() if sum(each.values()) == len(labelling.pairs)
    }  # fmt: skip
