"""The scores of reasoning-gym's own verifiers."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from textenv.episode import Episode
from textenv.rewards.check import Reward
from textenv.rewards.library.columns import column, finished
from textenv.rewards.library.numbers import NUMBER

LEAST = 0.1
IN_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def reasoning_reward() -> Reward:
    """The score of reasoning-gym for the answer in a finished response, in [0, 1].

    Use it with the rows of `textenv.tasks.reasoning.rows`. The answer is the text in the last
    ``<answer>...</answer>`` of the response. Without these tags it is the last number of the
    response if the right answer is a number, and the whole response if it is not.

    - A score below 0.1 counts as 0, because any text gets up to 0.07 or so.
    - Where the right answer is a number, a score below 1 counts as 0, because a wrong number that
      contains the right one gets nearly 1. Other answers keep their partial credit: most verifiers
      give a text of m characters that contains the right one, of n characters, the score n / m.
    - An answer at which the verifier raises an error scores 0, and so does a response that the
      token budget cut off.
    """
    reasoning_gym()
    return Reasoning()


class Reasoning:
    """`reasoning_reward`, once the package is known to be there."""

    def check_row(self, row: Mapping[str, Any]) -> None:
        column(row, "entry"), column(row, "dataset")

    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        return [_score(episode) for episode in episodes]


def reasoning_gym() -> Any:
    """The package, which is an optional dependency; a ValueError says that it is missing."""
    try:
        import reasoning_gym as package
    except ImportError as error:
        raise ValueError(
            f"The tasks of reasoning-gym need a package that is missing ({error}): "
            "pip install reasoning-gym"
        ) from error
    return package


def answer_in(text: str, right: str) -> str:
    """The answer in a response, by the rule of `reasoning_reward`; "" if there is none."""
    tagged = IN_TAGS.findall(text)
    if tagged:
        return tagged[-1].strip()
    if not is_number(right):
        return text.strip()
    numbers = [match[0] for match in NUMBER.finditer(text)]
    return numbers[-1].lstrip("$€£¥₹\\ ").replace(",", "") if numbers else ""


def is_number(answer: str) -> bool:
    return NUMBER.fullmatch(answer.strip()) is not None


def _score(episode: Episode) -> float:
    entry, name = column(episode.data, "entry"), column(episode.data, "dataset")
    config = json.dumps(episode.data.get("config", {}), sort_keys=True)
    right = str(entry["answer"])
    answer = answer_in(episode.response, right)
    if not answer or not finished(episode):
        return 0.0
    score_answer = _verifier(name, config)
    try:  # verifiers parse what they are given, and some raise errors of many kinds at junk
        score = min(1.0, float(score_answer(answer, entry)))
    except Exception:
        return 0.0
    return score if score >= (1.0 if is_number(right) else LEAST) else 0.0


@cache
def _verifier(name: str, config: str) -> Callable[..., Any]:
    return reasoning_gym().create_dataset(name, **json.loads(config)).score_answer
