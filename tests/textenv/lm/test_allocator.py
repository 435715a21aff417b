"""Memory that is freed is used again, where a model runs on a CPU."""

import os
import platform
import subprocess
import sys

import pytest

from textenv.lm import loading
from textenv.lm.allocator import RULES

FAULTS = """
import resource
import torch
from textenv.lm.allocator import keep_freed_memory

keep_freed_memory()

before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(100 * 2**18)  # 100 MB, which are 25,600 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**variables: str) -> int:
    """How often the system gives a process a page for tensors, one after the other."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(RULES)}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=plain | variables, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a rule of glibc")
def test_tensors_take_the_memory_of_others_that_are_gone():
    kept, given_back = faults(), faults(MALLOC_PERTURB_="0")
    assert kept < given_back / 2  # a few take new pages, where something small is in the way


def test_it_is_where_a_model_runs_on_a_cpu(monkeypatch):
    asked = []
    monkeypatch.setattr(loading, "keep_freed_memory", lambda: asked.append(1))
    loading.load_model("bundled")
    assert asked
