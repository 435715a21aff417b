"""The examples run, as a user's own Python would run them, only with small numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NUMBER = r"([+-]?\d+(?:\.\d+)?(?:e[+-]\d+)?)"


@pytest.fixture
def run(tmp_path):
    """``run(name, size=1, ...)``: what an example's ``main(size=1, ...)`` prints."""

    def run_example(name: str, **sizes) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in sizes.items())
        code = f"import runpy; runpy.run_path({str(EXAMPLES / name)!r})['main']({arguments})"
        done = subprocess.run(
            [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
            cwd=tmp_path, capture_output=True, text=True, timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        picture = tmp_path / "runs" / name.replace(".py", ".png")
        assert picture.read_bytes().startswith(b"\x89PNG")
        return done.stdout

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


def test_log_derivative_trick(run):
    printed = run("log_derivative_trick.py", rollouts=1, rows=1024)
    assert "sum to 1.000000" in printed
    norm, slope = numbers(r"‖E\[R ∇log π\]‖ = #; .* along it #", printed)
    assert slope == pytest.approx(norm, rel=0.01)
    error, expected = numbers(r"\n +16 +# +#\n", printed)
    assert error == pytest.approx(expected, rel=0.3)


def test_baseline_variance(run):
    printed = run("baseline_variance.py", critic_rollouts=1, rollouts=2, rows=64)
    for name in ("moving average", "leave one out", r"critic V\(s\)"):
        assert numbers(rf"{name} +# +#%", printed)[1] < 70


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


def test_preferences(run):
    printed = run("preferences.py", pairs=200, tokens=2000)
    accuracy, low, high, known = numbers(r"reward model: # \[#, #\] of .* perfect judge #", printed)
    assert low <= accuracy <= high and 0.5 < known < 1
    assert len(numbers(r"after # nats: proxy #, judge # deviations", printed)) == 3


def test_plain_torch_loop(run):
    printed = run("plain_torch_loop.py", updates=2, num_envs=8, episodes=3)
    assert -1 <= numbers("trained by hand +mean return # ± #", printed)[0] <= 1
    assert printed.count("update ") == 2
