"""The examples run as they stand, only with small numbers."""

from __future__ import annotations

import re
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
NUMBER = r"([+-]?\d+(?:\.\d+)?(?:e[+-]\d+)?)"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """``run(name, size=1, ...)``: what an example's ``main(size=1, ...)`` prints."""

    def run_example(name: str, **sizes) -> str:
        monkeypatch.chdir(tmp_path)
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("error", RuntimeWarning)
            runpy.run_path(str(EXAMPLES / name))["main"](**sizes)
        picture = tmp_path / "runs" / name.replace(".py", ".png")
        assert picture.read_bytes().startswith(b"\x89PNG")
        return capsys.readouterr().out

    return run_example


def numbers(pattern: str, text: str) -> list[float]:
    """The numbers at each ``#`` of the pattern, which must be there."""
    found = re.search(pattern.replace("#", NUMBER), text)
    assert found, f"{pattern!r} is not in:\n{text}"
    return [float(number) for number in found.groups()]


def test_parabola(run):
    printed = run("parabola.py", updates=150, draws=20_000)
    assert "x = -2.00 -1.20 -0.56" in printed
    for name in ("REINFORCE", "with baseline"):
        mean, difference = numbers(rf"{name} +μ = # ± .* the same to #", printed)
        assert mean > 0 and difference < 1e-5
    plain, with_baseline = numbers(r"at the peak: #, with the baseline E\[R\] #", printed)
    assert plain == pytest.approx(55, rel=0.1) and with_baseline == pytest.approx(10, rel=0.1)
    rows = r"without +{0}\n +by formula +{0}\nwith E\[R\] +{0}\n +by formula +{0}\n"
    table = np.reshape(numbers(rows.format(" +".join("######")), printed), (4, 6))
    assert table[[0, 2]] == pytest.approx(table[[1, 3]], rel=0.1)
    worse = table[0] < table[2]  # at the third μ, −0.7, alone: at the second they are equal
    assert worse[2] and not worse[[0, 4, 5]].any()


def test_log_derivative_trick(run):
    printed = run("log_derivative_trick.py", rollouts=1, rows=1024)
    assert "sum to 1.000000" in printed
    norm, slope = numbers(r"‖E\[R ∇log π\]‖ = #; .* along it #", printed)
    assert slope == pytest.approx(norm, rel=0.01)
    of_layer, part = numbers("weights of the last norm layer: # as .* responses, # as", printed)
    assert 0 < of_layer < norm and part == pytest.approx(of_layer, abs=1e-3)
    error, expected = numbers(r"\n +16 +# +#\n", printed)
    assert error == pytest.approx(expected, rel=0.3)


def test_baseline_variance(run):
    printed = run("baseline_variance.py", critic_rollouts=1, rollouts=2, rows=64)
    for name in ("moving average", "leave one out", r"critic V\(s\)"):
        assert numbers(rf"{name} +# +#%", printed)[1] < 70
    within, between = numbers("within a prompt #, between prompts #", printed)
    assert within > 0 and within > between
    assert "1 + 1 / (G - 1) = 1.33" in printed


def test_gae_lambda(run):
    printed = run("gae_lambda.py", walks=400, points=6)
    for critic in ("correct", "half of V", r"V \+ noise", "0"):
        for gae_lambda in ("0", "4", "8"):
            bias, sampled, _ = numbers(rf"\n{critic} +[01]\.{gae_lambda} +# +# +#", printed)
            assert sampled == pytest.approx(bias, abs=0.02)
        bias, _, deviation = numbers(rf"\n{critic} +1\.0 +# +# +#", printed)
        assert bias == 0 and deviation == pytest.approx(0.83, abs=0.05)
    assert numbers(r"estimates\ncorrect +# +# +# +#", printed) == [0, 0, 0, 0]
    few, _, _, many = numbers(r"half of V +# +# +# +#\n", printed[printed.index("best λ") :])
    assert few < many == 1


@pytest.mark.parametrize("env_id", ["TextGen-v0", "GuessNumber-v0"])
def test_ppo_one_file(run, env_id):
    printed = run("ppo_one_file.py", total_tokens=300, num_envs=16, minibatch_size=8, env_id=env_id)
    assert printed.count("update: KL") >= 2
    score, kl = numbers(r"tokens   return #   score", printed) + numbers(r"KL +# +update", printed)
    assert -1 <= score <= 1 and kl == 0  # the first rollout is of the untouched model


@pytest.mark.slow
def test_ppo_one_file_learns(run):
    printed = run("ppo_one_file.py", total_tokens=20_000)
    first, last = numbers("the first rollout #, mean of the last fifth of them #", printed)
    assert last > first + 0.1


def test_kl_estimators(run):
    printed = run("kl_estimators.py", points=3, draws=50_000)
    row = r"random +0\.100 +{} +# +± +# +# +± +# +# +± +#\n"
    k1, k2, k3 = (numbers(row.format(name), printed) for name in ("k1", "k2", "k3"))
    assert k1[0] == k3[0] == 0 != k2[0]  # the value
    assert k2[2] == 0 < k3[2] < k1[2] == 1  # in a loss
    assert k1[4] == 0 and k2[4] > 0.9 and k3[4] > 0.9  # in a reward
    assert k1[5] == k2[3]  # they are the same thing
    for name, exact in (("k1", k1), ("k2", k2), ("k3", k3)):
        bias, error, deviation = numbers(rf"\n{name}   bias # ± #, deviation #", printed)
        assert abs(bias - exact[0]) < 4 * error and deviation == pytest.approx(exact[1], rel=0.1)


def test_clip_picture(run):
    printed = run("clip_picture.py", points=50)
    assert re.search(r"1\.5 +1 +0 +0 +-1 +-1 +-1\n +4\.0 +1 +0 +0 +-1 +-1 +0\n", printed)


def test_reward_kl_curve(run):
    printed = run("reward_kl_curve.py", betas=(0.1,), temperatures=(0.8,), tokens=4000, episodes=64)
    ((before, no_kl), (after, kl)) = (
        numbers(rf"0\.8 +{beta} +# +#", printed) for beta in ("-", r"0\.1")
    )
    assert after > before and no_kl == 0 < kl


def test_custom_reward(run):
    printed = run("custom_reward.py", tokens=200, episodes=64)
    assert numbers("before: score #, KL #", printed)[1] == 0
    assert numbers("after: score #, KL #", printed)[1] > 0


@pytest.mark.slow
def test_preferences(run):
    printed = run("preferences.py", pairs=40, tokens=300, texts=20)
    found = numbers(r"reward model: # \[#, #\] of # other pairs .* perfect judge #", printed)
    accuracy, low, high, _, known = found
    assert low <= accuracy <= high and 0.5 < known < 1
    assert printed.count("reward model: ") == 2  # the second from the pairs of the agent, too
    assert len(numbers(r"after # nats: proxy #, judge # deviations", printed)) == 3


def test_plain_torch_loop(run):
    printed = run("plain_torch_loop.py", updates=2, num_envs=8, episodes=3)
    assert -1 <= numbers("trained by hand +mean return # ± #", printed)[0] <= 1
    assert printed.count("update ") == 2


RIGHT = {
    "return of the episode, for all its actions", "return-to-go", "GAE over actions, true critic",
    "GAE over actions, wrong critic, λ = 1", "GAE over turns, true critic",
    "GAE over turns, wrong critic, λ = 1", "leave-one-out, episodes",
    "leave-one-out, turns by position",
}  # fmt: skip


def test_credit_in_dialogues(capsys):
    example = runpy.run_path(str(EXAMPLES / "credit_in_dialogues.py"))
    for seed in range(3):
        game = example["play"](seed)
        exact = example["exact_gradient"](game)
        assert game.probabilities().sum().item() == pytest.approx(1)
        for name, (credit, in_pairs) in example["CREDITS"].items():
            found = example["expected_gradient"](game, credit, in_pairs)
            what, error, _ = example["verdict"](exact, found)
            if name in RIGHT:
                assert what == "the gradient of J" and error < 1e-12
            elif name == "group-centered, episodes":
                assert what == "in proportion to it"
                torch.testing.assert_close(found, exact / 2)
            else:
                assert what == "another direction" and error > 1e-3
    example["main"]()
    assert capsys.readouterr().out.count("the gradient of J") == len(RIGHT)
