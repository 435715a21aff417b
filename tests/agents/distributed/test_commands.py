"""The command line with several processes, forked here and started by torchrun."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agents import PPO
from agents.cli import main
from agents.runs import RunFolder
from textenv.lm.loading import hide_progress_bars

SECONDS = 300  # after which a process that hangs is ended


@pytest.fixture
def options(model_folder, tmp_path) -> list[str]:
    (tmp_path / "prompts.txt").write_text("a b\nc\nb a c a\n")
    hide_progress_bars()  # whose lock a killed fork would never release
    return [
        "train", "--model", model_folder, "--prompts", str(tmp_path / "prompts.txt"),
        "--reward", "length(3)", "--n-envs", "16", "--max-new-tokens", "5", "--eval-episodes", "16",
        "--reference-episodes", "64", "--device", "cpu", "--output", str(tmp_path / "run"),
    ]  # fmt: skip


def rows(folder: RunFolder) -> int:
    return len(folder.progress.read_text().splitlines()) if folder.progress.is_file() else 0


def printed_by(folder: Path) -> list[str]:
    """What each of two processes printed, without what gloo of earlier releases says of itself."""
    texts = [(folder / f"{rank}.txt").read_text() for rank in range(2)]
    return [re.sub(r"^\[Gloo\].*\n?", "", text, flags=re.MULTILINE) for text in texts]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("shard", ["none", "full"])
def test_train_with_two_processes(shard, options, tmp_path, in_processes):
    command = [*options, "--total-timesteps", "300", "--shard", shard]
    in_processes(lambda: main(command), lambda: main(command))
    folder = RunFolder(tmp_path / "run")
    assert folder.finished and folder.settings()["processes"] == 2
    printed = printed_by(tmp_path)
    assert "before" in printed[0] and "again" in printed[0] and printed[1] == ""
    assert PPO.load(folder.agent, device="cpu").n_envs == 16


@pytest.mark.parametrize("shard", ["none", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_ends_the_run_and_the_work_is_saved(
    killed, shard, options, tmp_path, start, ended
):
    folder = RunFolder(tmp_path / "run")
    command = [
        *options, "--total-timesteps", "1000000", "--save-every", "2 rollouts", "--shard", shard
    ]  # fmt: skip
    processes = start([lambda: main(command)] * 2)
    wait_for(lambda: rows(folder) > 6)
    os.kill(processes[killed], signal.SIGKILL)
    codes = ended(processes)
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] == 1
    printed = printed_by(tmp_path)
    assert "Traceback" not in "".join(printed) and printed[1] == ""
    saved = PPO.load(folder.newest, device="cpu").num_timesteps
    last = folder.progress.read_text().splitlines()[-1].split(",")
    if killed == 1:
        assert "Another process of this run has ended" in printed[0] and "go on" in printed[0]
        # Nothing is lost; an update that was half done is saved, too.
        header = folder.progress.read_text().splitlines()[0].split(",")
        assert saved >= int(last[header.index("time/total_timesteps")])
    resume = ["train", "--resume", str(tmp_path / "run"), "--total-timesteps", str(saved + 200)]
    assert ended(start([lambda: main([*resume, "--device", "cpu"])] * 2)) == [0, 0]
    assert folder.finished and PPO.load(folder.agent, device="cpu").num_timesteps >= saved + 200


def test_a_signal_to_all_saves_once(options, tmp_path, start, ended):
    folder = RunFolder(tmp_path / "run")
    command = [*options, "--total-timesteps", "1000000"]
    processes = start([lambda: main(command)] * 2)
    wait_for(lambda: rows(folder) > 4)
    for process in processes:
        os.kill(process, signal.SIGTERM)
    codes = ended(processes)
    assert codes[0] == 128 + signal.SIGTERM and codes[1] in (128 + signal.SIGTERM, 1)
    printed = printed_by(tmp_path)
    assert "ended by SIGTERM" in printed[0] and printed[1] == ""
    header, *_, last = (line.split(",") for line in folder.progress.read_text().splitlines())
    saved = PPO.load(folder.newest, device="cpu").num_timesteps
    assert saved == int(last[header.index("time/total_timesteps")])


def test_what_is_refused_is_said_once(options, tmp_path, start, ended):
    command = [*options, "--total-timesteps", "300", "--n-envs", "15"]
    assert ended(start([lambda: main(command)] * 2)) == [1, 1]
    printed = printed_by(tmp_path)
    assert "n_envs=15 cannot be divided equally among 2 processes" in printed[0]
    assert "Traceback" not in printed[0] and printed[1].strip() == ""
    assert not (tmp_path / "run").exists()


def test_other_commands_have_one_process(tmp_path, start, ended):
    assert ended(start([lambda: main(["evaluate", "run"])] * 2)) == [1, 1]
    assert "evaluate runs in one process" in (tmp_path / "0.txt").read_text()


def worker(launcher: int, rank: int) -> int:
    """The id of the process of a rank that torchrun has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and f"RANK={rank}".encode() in (
                folder / "environ"
            ).read_bytes().split(b"\0"):
                return int(folder.name)
        except OSError:
            continue  # it has ended
    raise LookupError(f"process {launcher} has no rank {rank}")


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["none", "full"])
@pytest.mark.parametrize("ends", ["by itself", "SIGKILL", "SIGTERM"])
def test_torchrun(ends, shard, options, tmp_path):
    total = "300" if ends == "by itself" else "1000000"
    launcher = subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "agents", *options, "--total-timesteps", total, "--shard", shard,
        ],
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    folder = RunFolder(tmp_path / "run")
    if ends == "by itself":
        printed, _ = launcher.communicate(timeout=SECONDS)
        assert launcher.returncode == 0 and printed.count("again ") == 1 and folder.finished
        return
    wait_for(lambda: rows(folder) > 4)
    if ends == "SIGKILL":  # the second process is killed
        os.kill(worker(launcher.pid, 1), signal.SIGKILL)
    else:  # the launcher is told to end
        launcher.send_signal(signal.SIGTERM)
    printed, errors = launcher.communicate(timeout=SECONDS)
    assert launcher.returncode != 0
    words = "Another process of this run has ended" if ends == "SIGKILL" else "ended by SIGTERM"
    assert printed.count(words) == printed.count("go on ") == 1
    assert "agents/" not in errors  # no traceback of this program beside the launcher's report
    assert PPO.load(folder.newest, device="cpu").num_timesteps > 0
