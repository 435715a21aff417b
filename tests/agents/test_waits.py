"""How often the host waits for an accelerator, counted on an emulated one, in a process of its own.

That everything runs there also shows that tensors of the host and of the device do not meet.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # for the plain run; the checks of a change run it as well


@pytest.fixture(scope="module")
def counts():
    script = Path(__file__).with_name("emulated_device.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_an_optimiser_step_waits_twice(counts):
    """For the tokens that are to be read, and for the norm of the gradient with all metrics."""
    assert len(counts["learning"]) == 4
    assert all(each and max(each) <= 2 for each in counts["learning"].values()), counts["learning"]


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        ("batch, torch", 0),
        ("batch, torch, stop strings", 1),
        ("step, torch", 1),
        ("step, torch, stop strings", 2),
        ("step, numpy", 1),
        ("step, numpy, stop strings", 1),
    ],
)
def test_a_step_waits_once_and_a_scoring_three_times(counts, kind, most):
    first, *between, last = counts["steps"][kind]
    assert max(between) <= most
    assert first <= most + 4  # the prompts, of the policy and of a reference that steps with it
    assert last <= most + 3  # the episodes, their actions, and what the reference reads
