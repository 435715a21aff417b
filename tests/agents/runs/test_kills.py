"""Runs that are killed at random moments, in real processes: nothing is lost, nothing is mixed.

A process is a fork of this one, which has everything imported, so that hundreds of kills take
minutes. The moments are random, but the same in each call.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers
from forked import fork
from safetensors.torch import load_file
from stateful import STATEFUL
from torch.testing import assert_close

from agents import GRPO, PPO
from agents.cli import main
from agents.runs import RunFolder, RunRecorder
from agents.saving.agent_folder import describe, find
from textenv.lm.loading import hide_progress_bars

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def without_bars():
    """The lock of progress bars is shared with forks: a killed one would never release it."""
    hide_progress_bars()
    yield
    transformers.utils.logging.enable_progress_bar()


def ends(process: int) -> int | None:
    """The exit code of a process that has ended; None while it runs."""
    done, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def kill_after(process: int, seconds: float) -> bool:
    """Kill a process; returns False if it ended by itself before, which must be without error."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        code = ends(process)
        if code is not None:
            assert code == 0, "see the log"
            return False
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return True


def state(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of an agent's folder."""
    return {
        f"{file.name}/{name}": tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def moment(run: RunFolder) -> str:
    """What a killed run was doing, from what it has left."""
    if list(run.path.glob("**/.*.new-*")):
        return "saving"
    evaluations, options = run.evaluations(), run.settings() if run.is_run() else {}
    if "before" not in evaluations and "options" in options:
        return "before learning"
    if "after" in evaluations:
        return "at the end"
    if run.has_checkpoint:
        timesteps = describe(find(run.newest))["num_timesteps"]
        if timesteps >= options.get("options", {}).get("total_timesteps", 1e9):
            return "evaluating"
    return "learning"


def lost_rollouts(run: RunFolder) -> int:
    """How many rollouts of the log are not in the newest checkpoint."""
    rows = run.progress.read_text().splitlines()[1:] if run.progress.is_file() else []
    saved = describe(find(run.newest)) if run.has_checkpoint else {}
    return len(rows) - saved.get("num_rollouts", 0)


def kill_and_resume(start, resume, new_folder, undisturbed, kills, seconds, log) -> Counter:
    """Kill runs ``kills`` times in all, and compare each that ends with the undisturbed one."""
    moments, finished, numbers = Counter(), 0, random.Random(0)
    while moments.total() < kills or finished == 0:
        run = RunFolder(new_folder())
        work = start
        while True:
            process = fork(lambda work=work, run=run: work(run.path), log)
            if not kill_after(process, numbers.uniform(0.01, seconds / 2)):
                break
            moments[moment(run)] += 1
            assert lost_rollouts(run) <= 2, log.read_text()
            # Killed before it had written its settings, it has nothing to resume.
            work = resume if run.settings_file.is_file() else start
        assert_close(state(run.newest), undisturbed, rtol=0, atol=0)
        finished += 1
    return moments


@pytest.fixture
def text_options(model_folder, tmp_path) -> list[str]:
    (tmp_path / "prompts.txt").write_text("a b\nc\nb a c a\nd\n")
    return [
        "train", "--model", model_folder, "--prompts", str(tmp_path / "prompts.txt"),
        "--reward", "length(3)", "--total-timesteps", "2000", "--n-envs", "32", "--max-new-tokens",
        "5", "--eval-episodes", "256", "--reference-episodes", "256", "--device", "cpu",
        "--save-every", "2 rollouts", "--learning-rate", "0.01", "--seed", "5",
    ]  # fmt: skip


QUIZ = "stateful:Quiz"
TURNS = [
    "--respond", QUIZ, "--max-turns", "3", "--max-turn-tokens", "2",
    "--max-reply-tokens", "4",
]  # fmt: skip


@pytest.mark.parametrize(
    ("agent", "kills", "more"), [("ppo", 30, []), ("grpo", 20, []), ("rloo", 20, TURNS)]
)
def test_text_is_killed_and_resumed(agent, kills, more, text_options, tmp_path):
    options, log = [*text_options, "--agent", agent, *more], tmp_path / "log.txt"
    began = time.monotonic()
    process = fork(lambda: main([*options, "--output", str(tmp_path / "whole")]), log)
    assert not kill_after(process, 120)
    seconds = time.monotonic() - began
    folders = (tmp_path / f"run-{number}" for number in range(1000))
    moments = kill_and_resume(
        lambda path: main([*options, "--output", str(path)]),
        # Code that a run has used is named again.
        lambda path: main(
            ["train", "--resume", str(path), "--save-every", "2 rollouts", *more[:2]]
        ),
        lambda: next(folders),
        state(tmp_path / "whole" / "checkpoints" / "newest"),
        kills,
        seconds,
        log,
    )
    print(agent, f"{seconds:.1f} s undisturbed; killed", dict(moments))
    assert moments.total() >= kills and moments["learning"] > 0
    assert moments["before learning"] + moments["evaluating"] + moments["at the end"] > 0


def cartpole(model_folder) -> PPO:
    return PPO("MlpPolicy", STATEFUL, seed=3, n_steps=128, device="cpu")


def dialogues(model_folder) -> PPO:
    """Rollouts end in the middle of dialogues, whose objects have a state and chance."""
    return PPO(
        "CausalLMPolicy", "TextGen-v0", seed=3, n_steps=7, n_envs=16, device="cpu",
        policy_kwargs={"model": model_folder}, learning_rate=0.01,
        env_kwargs={"prompts": ["a b", "c"], "reward": "length(3)", "max_new_tokens": 5,
                    "respond": QUIZ, "max_turns": 3, "max_turn_tokens": 2,
                    "max_reply_tokens": 4, "reference": model_folder},
    )  # fmt: skip


@pytest.mark.parametrize(("make", "steps"), [(cartpole, 12_000), (dialogues, 3_000)])
def test_steps_are_killed_and_resumed(make, steps, model_folder, tmp_path):
    def learn(path, resumes=False):
        if resumes and RunFolder(path).has_checkpoint:
            code = {"env_kwargs": {"respond": QUIZ}} if make is dialogues else {}
            agent = PPO.load(path, **code)
        else:
            agent, resumes = make(model_folder), False
        recorder = RunRecorder(path, "2 rollouts", resume=resumes, overwrite=not resumes)
        agent.learn(steps - agent.num_timesteps, recorder, reset_num_timesteps=False)

    log = tmp_path / "log.txt"
    began = time.monotonic()
    assert not kill_after(fork(lambda: learn(tmp_path / "whole"), log), 120)
    seconds = time.monotonic() - began
    folders = (tmp_path / f"run-{number}" for number in range(1000))
    moments = kill_and_resume(
        learn, lambda path: learn(path, True), lambda: next(folders),
        state(tmp_path / "whole" / "checkpoints" / "newest"), 15, seconds, log,
    )  # fmt: skip
    print(f"{make.__name__} {seconds:.1f} s undisturbed; killed", dict(moments))


def test_compare_is_killed_and_goes_on(text_options, tmp_path):
    where = text_options.index("--total-timesteps") + 1
    options = ["compare", *text_options[1:where], "600", *text_options[where + 1 :]]
    for name in ("--learning-rate", "--seed"):  # of a single run
        at = options.index(name)
        del options[at : at + 2]
    options += ["--agents", "ppo", "grpo", "--seeds", "2"]
    log, numbers = tmp_path / "log.txt", random.Random(1)
    began = time.monotonic()
    process = fork(lambda: main([*options, "--output", str(tmp_path / "whole")]), log)
    assert not kill_after(process, 200)
    seconds, kills = time.monotonic() - began, 0
    while kills < 20:
        output = tmp_path / f"again-{kills}"
        work = lambda output=output: main([*options, "--output", str(output)])  # noqa: E731
        for _ in range(10):
            if not kill_after(fork(work, log), numbers.uniform(0.01, seconds / 4)):
                break
            kills += 1
        else:  # what is left to do may take longer than any of them had
            assert not kill_after(fork(work, log), 200)
        for name in ("ppo-0", "ppo-1", "grpo-0", "grpo-1"):
            one, other = RunFolder(tmp_path / "whole" / name), RunFolder(output / name)
            assert_close(state(other.newest), state(one.newest), rtol=0, atol=0)
            scores = [run.evaluations()["after"]["score"] for run in (one, other)]
            assert scores[0] == scores[1]


def test_no_mixture_in_200_kills_of_save(text_options, model_folder, tmp_path):
    """Two agents take turns in one folder: what loads is one of them, whole."""
    made = []
    for cls, seed in ((PPO, 1), (GRPO, 2)):
        agent = cls(
            "CausalLMPolicy", "TextGen-v0", n_envs=8, seed=seed, device="cpu",
            policy_kwargs={"model": model_folder}, learning_rate=0.01,
            env_kwargs={"prompts": ["a b", "c"], "reward": "length(3)", "max_new_tokens": 5,
                        "reference": model_folder},
        ).learn(100)  # fmt: skip
        agent.save(tmp_path / cls.__name__)
        made.append(agent)
    wholes = {name: state(tmp_path / name) for name in ("PPO", "GRPO")}
    folder, log, numbers = tmp_path / "shared", tmp_path / "log.txt", random.Random(2)
    began = time.monotonic()
    made[0].save(folder)
    seconds = time.monotonic() - began

    def save_in_turn():
        while True:
            for agent in made:
                agent.save(folder)

    found = Counter()
    for _ in range(200):
        assert kill_after(fork(save_in_turn, log), numbers.uniform(0, 4 * seconds))
        name = describe(find(folder))["algorithm"]
        assert_close(state(find(folder)), wholes[name], rtol=0, atol=0)
        found[name] += 1
    assert set(found) == {"PPO", "GRPO"}
    loaded = {"PPO": PPO, "GRPO": GRPO}[name].load(folder)
    loaded.save(folder)  # which removes what killed processes have left
    assert [path.name for path in tmp_path.glob(".shared*")] == []
