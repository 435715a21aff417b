"""How runs end, in real processes: what the user reads, the exit code, what is in the folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from agents.runs import RunFolder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


@pytest.fixture
def start(model_folder, tmp_path):
    """``start(*options)``: a run in a process of its own, with the output in a pipe."""

    def run(*options, command="train", seconds_of_learning=True, wrapper=(), **keywords):
        (tmp_path / "prompts.txt").write_text("a b\nc\n")
        total = "1000000" if seconds_of_learning else "100"
        arguments = [
            *wrapper, sys.executable, "-m", "agents", command, "--model", model_folder,
            "--prompts", str(tmp_path / "prompts.txt"), "--reward", "length(3)",
            "--total-timesteps", total, "--n-envs", "16", "--max-new-tokens", "5",
            "--eval-episodes", "32", "--reference-episodes", "64", "--device", "cpu", *options,
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            arguments, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, **keywords,
        )  # fmt: skip

    return run


def wait_for(condition, process, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.05)


def rows(folder: RunFolder) -> int:
    return len(folder.progress.read_text().splitlines()) if folder.progress.is_file() else 0


def last_words(text: str) -> str:
    """What is printed after the last line about a rollout."""
    lines = text.splitlines()
    last = max((i for i, line in enumerate(lines) if " left  " in line), default=-1)
    return "\n".join(lines[last + 1 :])


def assert_resumes(folder: RunFolder, words: str, tmp_path: Path) -> None:
    (command,) = re.findall(r"go on  python -m agents (.*)", words)
    done = rows(folder)
    arguments = [*command.split(), "--total-timesteps", "200", "--device", "cpu"]
    result = subprocess.run(
        [sys.executable, "-m", "agents", *arguments], cwd=tmp_path, text=True, capture_output=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert folder.finished and rows(folder) >= done


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(name, start, tmp_path):
    folder, number = RunFolder(tmp_path / "run"), getattr(signal, name)
    process = start("--output", "run")
    wait_for(lambda: rows(folder) > 4, process)
    process.send_signal(number)
    words = last_words(process.communicate(timeout=60)[0])
    assert process.returncode == 128 + number
    assert "Traceback" not in words and len(words.splitlines()) < 10
    assert name in words and "last rollout" in words and "learning_curve.png" in words
    saved = pd.read_csv(folder.progress)["time/total_timesteps"].iloc[-1]
    from agents import PPO

    assert PPO.load(tmp_path / "run").num_timesteps == saved
    assert folder.plot.is_file() and not folder.finished
    assert_resumes(folder, words, tmp_path)


def test_a_second_signal_does_not_wait(start, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\ndef score(prompt, response):\n    time.sleep(60)\n    return 0.0\n"
    )
    process = start("--output", "run", "--reward", "slow:score")
    wait_for(lambda: (tmp_path / "run" / "settings.json").is_file(), process)
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    words = process.communicate(timeout=30)[0]
    assert process.returncode == 130 and "Traceback" not in words


def test_an_error_in_the_reward_in_a_later_batch(start, tmp_path):
    (tmp_path / "judge.py").write_text(
        "calls = []\n"
        "def score(episodes):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 6:\n"
        "        raise ConnectionError('the judge is away')\n"
        "    return [float(len(e.response)) / 10 for e in episodes]\n"
    )
    folder = RunFolder(tmp_path / "run")
    process = start("--output", "run", "--reward", "judge:score")
    words = last_words(process.communicate(timeout=90)[0])
    assert process.returncode == 1 and "Traceback" not in words
    assert "the judge is away" in words and "judge.py, line 5" in words
    assert len(words.splitlines()) < 10 and folder.has_checkpoint
    (tmp_path / "judge.py").write_text(
        "def score(episodes):\n    return [float(len(e.response)) / 10 for e in episodes]\n"
    )
    assert_resumes(folder, words.replace("--resume", "--accept-changes --resume"), tmp_path)


def test_a_reward_that_hangs_is_named_with_its_episode(start, tmp_path):
    (tmp_path / "hangs.py").write_text(
        "import time\ndef score(prompt, response):\n    time.sleep(1000)\n    return 0.0\n"
    )
    process = start("--output", "run", "--reward", "hangs:score", "--reward-timeout", "1")
    words = process.communicate(timeout=90)[0]
    assert process.returncode == 1 and "Traceback" not in words
    assert "not answered within reward_timeout=1 s" in words and "episode 0" in words
    assert "hangs.py, line 3" in words


def test_a_closed_pipe_does_not_end_the_run(start, tmp_path):
    process = start("--output", "run", seconds_of_learning=False)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=90) == 0
    assert RunFolder(tmp_path / "run").finished and RunFolder(tmp_path / "run").plot.is_file()


def test_a_full_disk(start, tmp_path):
    """A disk of 2 MB, in a namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=2m tmpfs {disk} && "$@"; code=$?; ls -R {disk}; exit $code'
    wrapper = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    probe = subprocess.run([*wrapper, "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("no mounts in a user namespace here")
    process = start(
        "--output", str(disk / "run"), "--save-every", "5 rollouts", "--show-samples", "8",
        "--critic-layers", "2", wrapper=wrapper,
    )  # fmt: skip
    text = process.communicate(timeout=300)[0]
    assert process.returncode == 1 and "Traceback" not in text, text[-3000:]
    assert text.count("the disk is full") == 1 and "agent.json" in text


def test_a_folder_that_cannot_be_written(start, tmp_path):
    (tmp_path / "file").write_text("mine")
    for output in ("file", "file/run"):
        process = start("--output", output)
        words = process.communicate(timeout=60)[0]
        assert process.returncode == 1 and len(words.splitlines()) == 1
        assert "there is a file where a folder should be" in words
    assert (tmp_path / "file").read_text() == "mine"
    process = start("--output", "/proc/run")  # root may write anywhere else
    words = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and len(words.splitlines()) == 1, words


def test_two_processes_do_not_write_one_run(start, tmp_path):
    folder = RunFolder(tmp_path / "run")
    first = start("--output", "run")
    wait_for(lambda: rows(folder) > 2, first)
    second = start("--output", "run", "--overwrite")
    words = second.communicate(timeout=60)[0]
    assert second.returncode == 1 and "another process is writing this run" in words
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 143 and folder.has_checkpoint


def test_output_in_a_file_is_a_line_for_each_rollout(start, tmp_path):
    process = start("--output", "run", "--total-timesteps", "3000")
    text = process.communicate(timeout=120)[0]
    lines = [line for line in text.splitlines() if " left  " in line]
    assert process.returncode == 0 and len(lines) > 20
    assert "\r" not in text and "\x1b" not in text
    assert re.match(r"\d+ of 3000 tokens  0:\d\d, \d:\d\d left  return", lines[0])


def test_an_interrupted_compare_says_how_to_go_on(start, tmp_path):
    process = start("--output", "all", "--agents", "ppo", "grpo", "--seeds", "2", command="compare")
    folder = RunFolder(tmp_path / "all" / "ppo-0")
    wait_for(lambda: rows(folder) > 4, process)
    process.send_signal(signal.SIGINT)
    words = last_words(process.communicate(timeout=60)[0])
    assert process.returncode == 130 and "The same command goes on" in words
    assert folder.has_checkpoint
