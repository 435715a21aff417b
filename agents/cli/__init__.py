"""usage: python -m agents COMMAND [--help]

- train: fine-tune a language model on a reward, and show what changed
- evaluate: sample from a saved agent
- compare: train several algorithms on several seeds, and say which differ
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from textenv.rewards import RewardError


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run the command. Errors of a user are shown in one sentence."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = arguments[0] if arguments else ""
    if command in ("", "-h", "--help"):
        print((__doc__ or "").strip())
        return
    if command not in COMMANDS:
        sys.exit(f"{command} is unknown: use {', '.join(list(COMMANDS)[:-1])} or compare.")
    try:
        COMMANDS[command](arguments[1:])
    except RewardError as error:
        if error.__cause__ is not None:  # the user needs the line in the reward function
            traceback.print_exception(error.__cause__)
        sys.exit(str(error))


# Each is imported only when it is used, so that help is fast.


def _train(arguments: list[str]) -> None:
    from agents.cli.train import main

    main(arguments)


def _evaluate(arguments: list[str]) -> None:
    from agents.cli.evaluate import main

    main(arguments)


def _compare(arguments: list[str]) -> None:
    from agents.cli.compare import main

    main(arguments)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "compare": _compare,
}
