"""Processes that help: each has a part of the work and of the threads, and ends with the first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from agents.runs.helpers import helpers

WORK = """
import os, time, torch
from pathlib import Path

def note(folder, part):
    print("nobody reads this")
    Path(folder, str(part)).write_text(str(torch.get_num_threads()))

def fail(folder, part):
    raise ValueError("nobody reads this")

def go_on(folder, part):
    Path(folder, str(part)).write_text(str(os.getpid()))
    time.sleep(600)
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path / "work_of_helpers.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    import work_of_helpers

    return work_of_helpers


def wait_for(path) -> str:
    end = time.monotonic() + 60
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return path.read_text()


def is_running(pid) -> bool:
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(listed.stdout.strip()) and not listed.stdout.startswith("Z")


def test_each_helper_has_another_part_and_as_many_threads(work, tmp_path, capfd):
    before = torch.get_num_threads()
    with helpers(3, work.note, str(tmp_path)):
        threads = {wait_for(tmp_path / str(number / 3)) for number in (1, 2)}
        assert threads == {str(torch.get_num_threads())}
    assert torch.get_num_threads() == before and not (tmp_path / "0.0").exists()
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_a_helper_ends_with_the_block_also_after_an_error(work, tmp_path):
    began = time.monotonic()
    with pytest.raises(KeyError), helpers(2, work.go_on, str(tmp_path)):
        wait_for(tmp_path / "0.5")
        raise KeyError
    assert time.monotonic() - began < 60


def test_a_helper_ends_with_a_process_that_is_killed(work, tmp_path):
    code = (
        "import sys, work_of_helpers\n"
        "from agents.runs.helpers import helpers\n"
        "if __name__ == '__main__':\n"
        "    with helpers(2, work_of_helpers.go_on, sys.argv[1]):\n"
        "        import time; time.sleep(600)\n"
    )
    (tmp_path / "main.py").write_text(code)
    first = subprocess.Popen([sys.executable, str(tmp_path / "main.py"), str(tmp_path)])
    helper = int(wait_for(tmp_path / "0.5"))
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    end = time.monotonic() + 60
    while is_running(helper):
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_helper_that_fails_is_no_error_here(work, tmp_path, capfd):
    with helpers(2, work.fail, str(tmp_path)):
        time.sleep(0.1)
    assert capfd.readouterr().err == ""


def test_alone_nothing_changes(work, tmp_path):
    before = torch.get_num_threads()
    with helpers(1, work.fail, str(tmp_path)):
        assert torch.get_num_threads() == before
