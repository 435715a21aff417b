"""Memory that is freed is used again, where a model runs on a CPU."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from textenv.lm import load_model

load_model("bundled")

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(100 * 2**18)  # 100 MB, which are 25,600 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def faults(**variables: str) -> int:
    """Pages that the system gives a process for a tensor like one that it had before."""
    rules = ("MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(rules)}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=plain | variables, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a rule of glibc")
def test_a_second_tensor_takes_the_memory_of_the_first():
    assert faults() < 100
    assert faults(MALLOC_PERTURB_="0") > 25  # huge pages may be 2 MB
