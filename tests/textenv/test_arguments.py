"""An argument of the environments is one line, which signatures, help and checks all read."""

from __future__ import annotations

import inspect
from dataclasses import fields

import gymnasium as gym
import pytest

from agents.experience.env_checks import check_arguments
from textenv import TextGenEnv, TextGenVectorEnv
from textenv.arguments import sentences_of
from textenv.task import TextTask

BOTH = pytest.mark.parametrize("cls", [TextGenEnv, TextGenVectorEnv])


@BOTH
def test_a_constructor_shows_every_argument_with_its_default_and_its_sentence(cls):
    shown, text = inspect.signature(cls).parameters, " ".join(cls.__doc__.split())
    assert not any(each.kind is each.VAR_KEYWORD for each in shown.values())
    for each in fields(TextTask):
        assert shown[each.name].default == each.default
        assert f" {each.name}: " in text
        if each.name != "device":  # the vector environment says more about it
            assert f" {each.name}: {sentences_of(TextTask)[each.name]}" in text
    for name in set(shown) - {each.name for each in fields(TextTask)}:
        assert f" {name}: " in text


@BOTH
def test_an_unknown_argument_is_refused_with_the_nearest_name(cls):
    with pytest.raises(
        TypeError,
        match=rf"{cls.__name__} got an unexpected keyword argument 'rewards'\. Did you mean",
    ):
        cls(rewards="length")


def test_the_single_environment_has_no_arguments_of_several_rows():
    with pytest.raises(
        TypeError, match=r"TextGenEnv got an unexpected keyword argument 'group_size'\."
    ):
        gym.make("TextGen-v0", group_size=2)


def test_a_class_of_ones_own_shows_its_own_arguments():
    class Louder(TextGenVectorEnv):
        def __init__(self, num_envs=1, *, loudness=1.0, **others):
            super().__init__(num_envs, **others)
            self.loudness = loudness

    assert list(inspect.signature(Louder).parameters) == ["num_envs", "loudness", "others"]
    assert Louder(2, loudness=3.0, reward="length").task.reward.name == "length"
    check_arguments(Louder, {"reward": "length", "loudness": 2.0})
    check_arguments(TextGenVectorEnv, {"reward": "length", "vectorization_mode": None})
    with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'loudness'"):
        check_arguments(TextGenVectorEnv, {"loudness": 2.0})
