"""The signatures that a reward function may have; each becomes a function of a batch of episodes.

A reward of TRL is recognised by the names of its parameters and called as TRL's GRPOTrainer calls
it, with keywords. Each value is a list with one entry for each episode:

- ``prompts``: texts; of conversations, their messages;
- ``completions``: texts; in conversations, ``[{"role": "assistant", "content": text}]``;
- ``completion_ids``: the tokens of the response, the stop token included;
- each other column of the prompts' rows (`Episode.data`), by its name.

There is no trainer here: ``trainer_state`` is None, and ``log_extra`` and ``log_metric`` do
nothing.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from textenv.episode import Episode
from textenv.rewards.check import NamedReward, RewardError, excerpt

TRL_PARAMETERS = {"completions", "completion_ids"}  # one of these makes it a reward of TRL
NOT_COLUMNS = {"prompt", "completion", "completion_ids"}  # TRL passes these as lists of their own


def from_callable(function: Any, name: str) -> NamedReward:
    """A batch reward of a callable of any of these signatures."""
    fix = (
        "a reward takes (episodes), or (prompt, response), or TRL's (completions, ...), and "
        "nothing else that is required"
    )
    if inspect.isclass(function):
        raise TypeError(f"reward {name!r} is a class: pass an instance of it.")
    if not callable(function):
        raise TypeError(f"reward {name!r} is a {type(function).__name__}, not callable: {fix}.")
    if _is_async(function):
        raise TypeError(
            f"reward {name!r} is asynchronous: wrap it in a function that calls asyncio.run."
        )
    try:
        signature = inspect.signature(function)
    except ValueError as error:
        raise TypeError(
            f"reward {name!r} does not show its parameters: "
            "wrap it, as in `lambda prompt, response: function(prompt, response)`."
        ) from error
    parameters = signature.parameters.values()
    required = [
        each
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if TRL_PARAMETERS & signature.parameters.keys():
        takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
        known = None if takes_all else list(signature.parameters)
        names = [each.name for each in required]
        return NamedReward(name, functools.partial(_score_lists, function, name, names, known))
    if all(each.kind is not each.KEYWORD_ONLY for each in required):
        if len(required) == 1:
            return NamedReward(name, function)
        if len(required) == 2:
            return NamedReward(name, functools.partial(_score_each, function, name))
    raise TypeError(f"reward {name!r} has the parameters {signature}: {fix}.")


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(function.__call__)


def _score_each(
    function: Callable[[str, str], float], name: str, episodes: Sequence[Episode]
) -> list[float]:
    """The scores of a function that takes one prompt and response."""
    scores = []
    for index, episode in enumerate(episodes):
        try:
            scores.append(function(episode.prompt, episode.response))
        except Exception as error:
            raise RewardError(
                f"reward {name!r} raised {type(error).__name__}: {error}; it was given "
                f"episode {index}, with {excerpt(episode)}."
            ) from error
    return scores


def _score_lists(
    function: Callable[..., Any],
    name: str,
    required: Sequence[str],
    known: Sequence[str] | None,
    episodes: Sequence[Episode],
) -> Any:
    """The scores of a function that requires some parameters and knows some, None if all."""
    texts = _texts(episodes)
    _check_columns(name, [column for column in required if column not in texts], episodes)
    # A row without a column has None in it, as in a table.
    columns = {key: None for each in episodes for key in each.data if key not in NOT_COLUMNS}
    keywords = {key: [each.data.get(key) for each in episodes] for key in columns} | texts
    given = {key: keywords[key] for key in keywords if known is None or key in known}
    try:
        answer = function(**given)
    except (TypeError, IndexError) as error:
        if any(map(_messages, episodes)):
            raise
        # The usual reason: the function reads messages, completion[0]["content"].
        raise RewardError(
            f"reward {name!r} raised {type(error).__name__}: {error}; it was given "
            f"{len(episodes)} completions as texts, the first with {excerpt(episodes[0])}: "
            "if it reads messages, make the prompts conversations, as chat=True does."
        ) from error
    # In TRL, None means that a reward does not apply to an episode; here, each has its score.
    for index, score in enumerate(answer if isinstance(answer, list | tuple) else ()):
        if score is None and index < len(episodes):
            raise RewardError(
                f"reward {name!r} scored episode {index} with None, 'not applicable', but an "
                f"episode needs a number: return 0.0 for it; it has {excerpt(episodes[index])}."
            )
    return answer


def _texts(episodes: Sequence[Episode]) -> dict[str, Any]:
    """What TRL passes besides the columns."""
    prompts: list[Any] = []
    completions: list[Any] = []
    for episode in episodes:
        messages, response = _messages(episode), episode.response
        if messages is None:
            prompts.append(episode.prompt)
            completions.append(response)
        else:  # copies, because many episodes begin with the same messages
            prompts.append([dict(message) for message in messages])
            completions.append([{"role": "assistant", "content": response}])
    return {
        "prompts": prompts,
        "completions": completions,
        "completion_ids": [episode.response_ids.tolist() for episode in episodes],
        "trainer_state": None,
        "log_extra": _log_nothing,
        "log_metric": _log_nothing,
    }


def _messages(episode: Episode) -> Sequence[Mapping[str, Any]] | None:
    """The messages of a conversation, which are in the column "prompt"; None of a plain text."""
    return episode.data.get("prompt")


def _log_nothing(*arguments: Any, **keywords: Any) -> None:
    pass


def _check_columns(name: str, required: list[str], episodes: Sequence[Episode]) -> None:
    for index, episode in enumerate(episodes):
        for column in required:
            if column not in episode.data or column in NOT_COLUMNS:
                known = sorted(str(key) for key in episode.data if key not in NOT_COLUMNS)
                raise RewardError(
                    f"reward {name!r} has the parameter {column!r}, but the prompt of episode "
                    f"{index} has no such column, only {known}: add the column to the prompts, or "
                    "give the parameter a default."
                )
