"""Candidates by their names: algorithms, those of others, and what needs no training."""

import ast
import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import stable_baselines3
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents import algorithms
from agents.agent import Agent
from agents.evaluation import BestOfN, Greedy, RandomTokens, Untouched
from agents.evaluation.candidates import UNTRAINED
from textenv.rewards.names import import_object

AGENTS = algorithms.NAMES

WITHOUT_TRAINING: dict[str, Callable[[], UNTRAINED]] = {
    "untouched": Untouched, "greedy": Greedy, "random": RandomTokens,
}  # fmt: skip
BEST_OF = re.compile("best-of-([0-9]+)")
OWN_POLICY = ("MaskablePPO", "RecurrentPPO")  # of sb3-contrib
CALL = re.compile(r"([^()]+?)\s*(?:\((.*)\))?", re.DOTALL)


def is_name(text: str) -> bool:
    """Whether a text names a candidate of this library, with or without hyper-parameters."""
    match = CALL.fullmatch(text.strip())
    name = match[1] if match else ""
    return name in AGENTS or name in WITHOUT_TRAINING or BEST_OF.fullmatch(name) is not None


@dataclass(frozen=True)
class Candidate:
    """What a comparison names."""

    label: str  # as it was written
    name: str  # without the arguments
    arguments: dict[str, Any]  # hyper-parameters that differ from the presets
    what: type[Agent] | type[OnPolicyAlgorithm] | UNTRAINED


def parse_candidate(text: str) -> Candidate:
    """A candidate: ``ppo``, ``"ppo(n_epochs=2)"``, ``best-of-4``, ``sb3:PPO``, ``mine:MyAgent``."""
    match = CALL.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"The candidate {text!r} cannot be read: write 'ppo(n_epochs=2)', say.")
    name, arguments = match[1], _arguments(text, match[2] or "")
    what = _what(name)
    if arguments and isinstance(what, UNTRAINED):
        raise ValueError(f"The candidate {name} is not trained, and has no hyper-parameters.")
    return Candidate(text.strip(), name, arguments, what)


def _arguments(text: str, written: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"f({written})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError
        return {str(key.arg): ast.literal_eval(key.value) for key in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"The candidate {text!r} cannot be read: hyper-parameters are name=value, with "
            "numbers, texts, True, False or None as values."
        ) from error


def _what(name: str) -> Any:
    best_of = BEST_OF.fullmatch(name)
    if best_of is not None:
        return BestOfN(int(best_of[1]))
    if name in WITHOUT_TRAINING:
        return WITHOUT_TRAINING[name]()
    if name in AGENTS:
        return AGENTS[name]
    if ":" in name:
        cls = _class_of_sb3(name) if name.startswith("sb3:") else import_object(name, "agent")
        if getattr(cls, "__name__", "") in OWN_POLICY:
            raise ValueError(
                f"The candidate {name} needs a policy of its own: compare it from Python, as a "
                "function of the seed that makes it."
            )
        if isinstance(cls, type) and issubclass(cls, Agent | OnPolicyAlgorithm):
            return cls
        raise ValueError(
            f"The candidate {name} is neither derived from agents.Agent nor an algorithm of "
            "stable-baselines3 that learns on-policy."
        )
    known = [*AGENTS, *WITHOUT_TRAINING]
    raise ValueError(
        f"The candidate {name} is unknown: {_guess(name, known)}use one of {', '.join(known)}, "
        "best-of-N, 'sb3:PPO', or 'module:Class' of your own."
    )


def _class_of_sb3(name: str) -> Any:
    algorithm = name.removeprefix("sb3:")
    if algorithm not in stable_baselines3.__all__:
        near = _guess(algorithm, stable_baselines3.__all__)
        raise ValueError(
            f"The candidate {name} is unknown: {near}use 'sb3:PPO' or 'sb3:A2C'; of sb3-contrib "
            "'sb3_contrib:TRPO'."
        )
    return getattr(stable_baselines3, algorithm)


def _guess(name: str, known: Sequence[str]) -> str:
    """The nearest name as a question; nothing if none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}? Or " if near else ""
