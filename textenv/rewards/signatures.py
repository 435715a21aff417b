"""The signatures that a reward function may have; each becomes a function of a batch of episodes.

The names of its parameters decide. One required parameter takes the episodes of a batch, unless it
is named as one text is. A function of one episode has a parameter ``response`` (or ``completion``,
``text``, ...); it may have ``prompt`` (``question``, ``instruction``, ...), and other columns of
the prompts' rows, by their names: ``f(completion, answer)``.

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
GIVEN_BY_TRL = {
    "prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"
}  # fmt: skip
NOT_COLUMNS = {"prompt", "completion", "completion_ids"}  # TRL passes these as lists of their own
# Names of parameters of a function of one episode.
RESPONSE = (
    "response", "completion", "text", "output", "generation", "generated", "reply", "continuation"
)  # fmt: skip
PROMPT = ("prompt", "question", "query", "instruction", "input", "context")
SHORT = {"p": "prompt", "r": "response", "": "prompt"}  # "_" is what is left out
FIX = (
    "a reward takes (episodes), or (prompt, response) and columns of the prompts' rows, or TRL's "
    "(completions, ...)"
)


def from_callable(function: Any, name: str) -> NamedReward:
    """A batch reward of a callable of any of these signatures."""
    if inspect.isclass(function):
        raise TypeError(f"reward {name!r} is a class: pass an instance of it.")
    if not callable(function):
        raise TypeError(f"reward {name!r} is a {type(function).__name__}, not callable: {FIX}.")
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
    names = [each.name for each in required]
    if TRL_PARAMETERS & signature.parameters.keys():
        takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
        known = None if takes_all else list(signature.parameters)
        columns = [each for each in names if each not in GIVEN_BY_TRL]
        return NamedReward(
            name, functools.partial(_score_lists, function, name, columns, known),
            functools.partial(_check_row, columns),
        )  # fmt: skip
    if len(required) == 1 and names[0] not in RESPONSE:
        if required[0].kind is not required[0].KEYWORD_ONLY:
            return NamedReward(name, function)
    elif required:
        roles = _roles(names, name, signature)
        columns = [role for role in roles if role not in (RESPONSE[0], *PROMPT)]
        keywords = [each.name for each in required if each.kind is each.KEYWORD_ONLY]
        return NamedReward(
            name, functools.partial(_score_each, function, name, roles, keywords),
            functools.partial(_check_row, columns),
        )  # fmt: skip
    raise TypeError(f"reward {name!r} has the parameters {signature}: {FIX}.")


def _roles(names: Sequence[str], name: str, signature: inspect.Signature) -> list[str]:
    """What each parameter of a function of one episode is: "response", "prompt", or a column."""
    plain = [each.strip("_") for each in names]
    plain = [SHORT.get(each, each) for each in plain]
    responses = [each for each in plain if each in RESPONSE]
    if len(responses) != 1 or len(set(plain)) < len(plain):
        raise TypeError(
            f"reward {name!r} has the parameters {signature}: {FIX}. These names do not say which "
            "one is the response, so name it response."
        )
    return [RESPONSE[0] if each in RESPONSE else each for each in plain]


def _check_row(
    columns: Sequence[str], row: Mapping[str, Any], where: str = "the prompt's row"
) -> None:
    """Raise a ValueError if a row lacks columns that a function requires."""
    for column in columns:
        if column not in row or column in NOT_COLUMNS:
            known = sorted(str(key) for key in row if key not in NOT_COLUMNS)
            raise ValueError(
                f"has the parameter {column!r}, but {where} has no such column, only {known}: add "
                "the column to the prompts, or give the parameter a default"
            )


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(function.__call__)


def _check_columns(name: str, required: Sequence[str], episodes: Sequence[Episode]) -> None:
    for index, episode in enumerate(episodes):
        try:
            _check_row(required, episode.data, f"the prompt of episode {index}")
        except ValueError as error:
            raise RewardError(f"reward {name!r} {error}.") from error


def _score_each(
    function: Callable[..., float],
    name: str,
    roles: Sequence[str],
    keywords: Sequence[str],
    episodes: Sequence[Episode],
) -> list[float]:
    """The scores of a function of one episode, whose parameters have these roles, the last of them
    by these keywords."""
    _check_columns(name, [role for role in roles if role not in (RESPONSE[0], *PROMPT)], episodes)
    scores = []
    first = len(roles) - len(keywords)
    for index, episode in enumerate(episodes):
        texts = {RESPONSE[0]: episode.response, PROMPT[0]: episode.prompt}
        known = dict.fromkeys(PROMPT, episode.prompt) | dict(episode.data) | texts
        values = [known[role] for role in roles]
        try:
            by_name = dict(zip(keywords, values[first:], strict=True))
            scores.append(function(*values[:first], **by_name))
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
    _check_columns(name, required, episodes)
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
