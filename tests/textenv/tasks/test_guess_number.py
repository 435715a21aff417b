"""GuessNumber-v0: its rules, and its optimum by hand."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from textenv.tasks import guess_number


@pytest.fixture
def env():
    return gym.make("GuessNumber-v0")


def play(env, secret, guess):
    """A game by a rule from the hints so far to a guess; the last step's reward and info."""
    env.reset(options={"prompt_index": int(secret)})
    hints = []
    while True:
        digit = guess(hints)
        token = env.unwrapped.tokenizer.convert_tokens_to_ids(digit)
        _, reward, ended, _, info = env.step(token)
        if ended:
            return reward, info
        hints.append(digit + info["reply"])


def halve(hints):
    left = [
        digit
        for digit in "0123456789"
        if all(digit > hint[0] if hint[1] == ">" else digit < hint[0] for hint in hints)
    ]
    return left[(len(left) - 1) // 2]


def test_halving_finds_each_secret_in_four_guesses(env):
    turns = []
    for secret in "0123456789":
        reward, info = play(env, secret, halve)
        assert info["finish_reason"] == "end" and reward == pytest.approx(1.1 - 0.1 * info["turns"])
        turns.append(info["turns"])
    assert np.mean(turns) == 2.9 and max(turns) == 4


def test_a_secret_that_is_not_found_scores_nothing(env):
    reward, info = play(env, "7", lambda hints: "0")
    assert reward == 0 and info["finish_reason"] == "turns" and info["turns"] == 4
    assert info["response"] == "0\n0\n0\n0"


def uniform(contexts):
    return np.full((len(contexts), 10), -np.log(10))


def test_the_planned_optimum_of_a_uniform_reference():
    """Without a cost it is halving; with a large one it is the reference."""
    plan = lambda kl_coef: guess_number.planned([[0]], int_of, uniform, kl_coef)  # noqa: E731
    value, score, start = plan(1e-4)
    assert score == pytest.approx(0.81, abs=1e-6) and value == pytest.approx(0.81, abs=1e-3)
    assert start == pytest.approx(by_chance(), abs=1e-9)
    value, score, _ = plan(1e3)
    assert value == pytest.approx(start, abs=1e-3) and score == pytest.approx(start, abs=1e-3)


def int_of(character):
    return int(character) if character.isdigit() else 0


def by_chance():
    """Guess t finds the secret with the probability 0.9^(t − 1)·0.1."""
    return sum(0.9**t * 0.1 * (1 - 0.1 * t) for t in range(4))


def test_the_optimal_value_is_that_of_its_policy():
    """J* = E[score] − β·KL of π*, with every game enumerated from what `planned` computes."""
    reference = {
        history: np.log(np.random.default_rng(len(history)).dirichlet(np.ones(10)))
        for history in guess_number._histories()
    }
    for kl_coef in (0.02, 0.2):
        value, score, start = guess_number._plan((), reference, kl_coef)
        assert start < value < score <= 0.81
        # The derivative of J* by β is −KL (the envelope theorem).
        more, less = (guess_number._plan((), reference, kl_coef + d)[0] for d in (1e-5, -1e-5))
        assert (score - value) / kl_coef == pytest.approx(-(more - less) / 2e-5, rel=1e-4)
