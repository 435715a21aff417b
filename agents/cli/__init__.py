"""usage: python -m agents COMMAND [--help] | --version

- train: fine-tune a language model on a reward, and show what changed
- evaluate: sample from a saved agent
- compare: train several algorithms on several seeds, and say which differ
- preferences: sample pairs of responses, and label which is better
- label: the same by people, on a page
- reward-model: train a reward model on preferences
- duel: which of two or more agents writes better texts, by a reward or a person as the judge
- watch: episodes of an agent token by token, with value, KL and advantage
- report: one HTML file about one or several runs
- doctor: name the problems of runs, by what they have logged
"""

import difflib
import importlib
import importlib.metadata
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from agents import distributed, files
from textenv.rewards import RewardError
from textenv.shown import message

COMMANDS = (
    "train", "evaluate", "compare", "preferences", "label", "reward-model", "duel", "watch",
    "report", "doctor",
)  # fmt: skip
BROKEN_PIPE = 128 + 13  # the exit code after SIGPIPE


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run the command. Errors of a user are shown in one sentence; if
    what reads the output has ended, such as head, nothing is."""
    try:
        try:
            _run(arguments)
        finally:
            sys.stdout.flush()  # which fails if what reads it has ended
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what its buffer still holds
        sys.exit(BROKEN_PIPE)


def _run(arguments: list[str] | None) -> None:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for output in (sys.stdout, sys.stderr):  # the help, too, has signs that not all encodings have
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
    command = arguments[0] if arguments else ""
    if command in ("", "-h", "--help"):
        print((__doc__ or "").strip())
        return
    if command == "--version":
        print(f"textenv {importlib.metadata.version('textenv')}")
        return
    if command not in COMMANDS:
        *names, last = COMMANDS
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        guess = f"did you mean {near[0]}? Use " if near else "use "
        sys.exit(message(f"{command} is unknown: {guess}{', '.join(names)} or {last}."))
    if distributed.process_count() > 1 and command != "train":
        count = distributed.process_count()
        sys.exit(f"{command} runs in one process, not in {count}: only train has several.")
    name = command.replace("-", "_")
    with silent_unless_main():
        try:
            module = importlib.import_module(f"agents.cli.{name}_command")  # now: help is fast
        except KeyboardInterrupt:  # nothing has begun; what is half imported cannot explain it
            print("ended by SIGINT", file=sys.stderr)
            sys.exit(130)
        try:
            module.main(arguments[1:])
        except (
            RewardError, OSError, files.DamagedFile, KeyboardInterrupt, distributed.ProcessLost
        ) as error:  # fmt: skip
            from agents.cli.errors import exit_code, in_words

            print(in_words(error), file=sys.stderr)
            sys.exit(exit_code(error))


@contextmanager
def silent_unless_main() -> Iterator[None]:
    """Print nothing in a process other than the first, unless its program fails."""
    if distributed.is_main():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            yield
        except SystemExit as ending:  # Python would print a sentence that the first one prints
            sys.exit(1 if isinstance(ending.code, str) else ending.code)
