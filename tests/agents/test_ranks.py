"""Several processes, each with its part of the rows, learn as one with all the rows (gloo, CPU).

The processes are forks of this one, which has everything imported.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor
from torch.testing import assert_close

import agents.algorithms
from agents import GRPO, PPO, TRPO, ranks
from agents.cli import main
from agents.ranks import exchange
from agents.rollout import Rollout, take
from agents.runs import RunFolder, RunRecorder
from textenv.lm.loading import hide_progress_bars

accelerate = pytest.importorskip("accelerate")

SECONDS = 300  # after which a process that hangs is ended
# A step whose size the rounding of a sum cannot change: epsilon is far above it.
CALM = {"learning_rate": 1e-3, "adam_epsilon": 1e-3}


# --- processes ----------------------------------------------------------------------------------


def start(works: Sequence[Callable[[], Any]], folder: Path) -> list[int]:
    """Start a process for each of ``works``, which are one run; returns their ids.

    What one returns is in ``folder/RANK.pt``, what it prints in ``folder/RANK.txt``.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [_start(rank, works, folder, port) for rank in range(len(works))]


def _start(rank: int, works: Sequence[Callable[[], Any]], folder: Path, port: int) -> int:
    process = os.fork()
    if process:
        return process
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(works)),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    output = os.open(folder / f"{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    code = 1
    try:
        torch.save(works[rank](), folder / f"{rank}.pt")
        code = 0
    except SystemExit as ending:
        if isinstance(ending.code, str):
            print(ending.code)
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(processes: Sequence[int]) -> list[int]:
    """The exit codes of processes, which must end in time."""
    codes: dict[int, int] = {}
    until = time.monotonic() + SECONDS
    while len(codes) < len(processes):
        for process in processes:
            if process not in codes:
                done, status = os.waitpid(process, os.WNOHANG)
                if done:
                    codes[process] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            for process in set(processes) - codes.keys():
                os.kill(process, signal.SIGKILL)
            until = np.inf
        time.sleep(0.005)
    return [codes[process] for process in processes]


@pytest.fixture
def in_processes(tmp_path) -> Callable:
    """``in_processes(one, other, ...)``: what each of the functions returns, in a process each."""

    def run(*works: Callable[[], Any]) -> list[Any]:
        codes = ended(start(works, tmp_path))
        printed = [(tmp_path / f"{rank}.txt").read_text() for rank in range(len(works))]
        assert codes == [0] * len(works), "\n".join(printed)
        return [
            torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(len(works))
        ]

    return run


# --- one update ---------------------------------------------------------------------------------


def rows_of(rollout: Rollout, rows: slice) -> Rollout:
    """Some of the rows of a rollout."""
    columns = {column.name: getattr(rollout, column.name) for column in fields(rollout)}
    chosen = {
        name: take(column, rows)
        for name, column in columns.items()
        if isinstance(column, Tensor) or name == "observations"
    }
    return replace(rollout, **chosen)


def assert_same_update(agent: Any, cuts: Sequence[slice], weights: Any, in_processes: Any) -> None:
    """An update of processes with parts of a rollout is that of this one with the whole of it."""
    with torch.no_grad():  # a critic that foretells 0 has no variance to explain
        for parameter in agent.policy.critic_parameters():
            parameter += 0.1
    rollout = agent.collect()

    def learn(part: Rollout) -> tuple[dict[str, float], dict[str, Tensor], Any]:
        metrics = agent.update(part)
        state = {name: getattr(agent, name) for name in agent.persistent_state}
        return metrics, weights(agent), state

    before = weights(agent)
    found = in_processes(*(lambda cut=cut: learn(rows_of(rollout, cut)) for cut in cuts))
    metrics, after, state = learn(rollout)
    assert max((after[name] - before[name]).abs().max() for name in after) > 1e-4
    for metrics_here, weights_here, state_here in found:
        assert metrics_here == pytest.approx(metrics, rel=1e-4, abs=1e-5)
        assert state_here == pytest.approx(state)
        for name in after:
            assert_close(weights_here[name], after[name], rtol=0, atol=1e-6)
            assert torch.equal(weights_here[name], found[0][1][name])  # in all, bit for bit


HALVES = (slice(0, 8), slice(8, 16))
CUTS = {
    "halves": HALVES,
    "one part is larger": (slice(0, 12), slice(12, 16)),
    "one part is empty": (slice(0, 16), slice(16, 16)),
    "three": (slice(0, 4), slice(4, 12), slice(12, 16)),
}


@pytest.mark.parametrize("cut", CUTS)
def test_parts_make_the_update_of_the_whole(name, cut, make_agent, fitting, weights, in_processes):
    few = fitting(name, n_epochs=2, batch_size=None, n_critic_updates=2, cg_max_steps=5)
    agent = make_agent(name, **CALM, **few)
    assert_same_update(agent, CUTS[cut], weights, in_processes)


def test_micro_batches_whose_number_differs(name, make_agent, fitting, weights, in_processes):
    few = fitting(name, n_epochs=2, batch_size=None, n_critic_updates=1, cg_max_steps=5)
    agent = make_agent(name, **CALM, **few, micro_batch_size=3)
    assert_same_update(agent, CUTS["one part is larger"], weights, in_processes)


@pytest.mark.parametrize(
    "options",
    [
        {"clip_range": None, "kl_loss_coef": 0.2, "reverse_kl": True},
        {"kl_loss_coef": 0.2, "kl_loss_target": 1e-5, "n_epochs": 3},
        {"target_kl": 1e-5, "n_epochs": 10},
        {"ent_coef": 0.01, "clip_range_vf": 0.2, "dual_clip": 3.0},
    ],
)
def test_what_ppo_decides_by_the_kl(options, make_agent, weights, in_processes):
    options = {"batch_size": None, "n_epochs": 2} | options
    assert_same_update(make_agent("PPO", **CALM, **options), HALVES, weights, in_processes)


@pytest.mark.parametrize("options", [{"return_to_go": False}, {"baseline_momentum": None}])
def test_what_reinforce_subtracts(options, make_agent, weights, in_processes):
    assert_same_update(make_agent("REINFORCE", **CALM, **options), HALVES, weights, in_processes)


@pytest.mark.parametrize("cut", [(slice(0, 2), slice(2, 4)), (slice(0, 1), slice(1, 4))])
def test_single_steps(ungrouped, cut, corridor, fitting, weights, in_processes):
    """Of a small network, whose rows are steps, in episodes of different lengths."""
    few = fitting(ungrouped.__name__, batch_size=None, n_epochs=2, n_critic_updates=2)
    envs = gym.vector.SyncVectorEnv([corridor] * 4)
    agent = ungrouped("MlpPolicy", envs, n_steps=40, seed=0, device="cpu", **CALM, **few)
    assert_same_update(agent, cut, weights, in_processes)


def test_no_episode_has_ended_in_one_process(corridor, weights, in_processes):
    """REINFORCE has nothing to learn from there."""
    envs = gym.vector.SyncVectorEnv([corridor] * 2)
    agent = agents.algorithms.REINFORCE("MlpPolicy", envs, n_steps=40, seed=0, device="cpu", **CALM)
    rollout = agent.collect()
    rollout.episode_end[1] = False
    agent.collect = lambda: rollout
    assert_same_update(agent, (slice(0, 1), slice(1, 2)), weights, in_processes)


@pytest.mark.parametrize(("rows", "cut"), [(16, 8), (16, 3), (13, 13)])
def test_all_processes_take_the_same_number_of_minibatches(rows, cut, make_agent, in_processes):
    """Each row once in an epoch, in minibatches of at most the size, but for rounding."""
    agent = make_agent("PPO", rows, batch_size=4, n_epochs=1)
    rollout = agent.collect()

    def sizes(part: slice) -> list[tuple[float, float]]:
        counts = []
        step = agent.optimizer_step

        def noting(batch):
            counts.append((batch.counts.episodes, batch.of_all().counts.episodes))
            return step(batch)

        agent.optimizer_step = noting
        agent.update(rows_of(rollout, part))
        return counts

    one, other = in_processes(lambda: sizes(slice(0, cut)), lambda: sizes(slice(cut, rows)))
    assert len(one) == len(other) == -(-rows // 4)
    rounding = 1 if cut == 3 else 0
    assert sum(own for own, _ in one) == cut and sum(own for own, _ in other) == rows - cut
    for (own, of_all), (of_other, again) in zip(one, other, strict=True):
        assert own + of_other == of_all == again <= 4 + rounding


# --- learning -----------------------------------------------------------------------------------


@pytest.fixture
def text_agent(model_folder) -> Callable:
    """``text_agent(PPO, ...)``: on text, with an environment that the agent makes."""

    def make(kind: Any = PPO, env: Any = (), **changes: Any):
        task = {
            "prompts": ["a b", "c", "b a c a", "d d"], "reward": "length(3)", "max_new_tokens": 5,
            "reference": model_folder, "kl_coef": {"target": 0.1, "horizon": 100, "initial": 0.1},
        }  # fmt: skip
        arguments = {"n_envs": 8, "seed": 3, "device": "cpu", "learning_rate": 1e-2}
        return kind(
            "CausalLMPolicy", "TextGen-v0", env_kwargs=task | dict(env),
            policy_kwargs={"model": model_folder}, **arguments | changes,
        )  # fmt: skip

    return make


def test_two_processes_learn_as_one_agent(text_agent, weights, tmp_path, in_processes):
    def learn():
        agent = text_agent(batch_size=4)
        prompts = []

        class Noting(BaseCallback):
            def _on_step(self):
                return True

            def _on_rollout_end(self):
                prompts.append(self.locals["rollout"].episodes["prompt"])

        agent.learn(150, Noting())
        agent.save(tmp_path / "agent")
        schedule = agent.env.unwrapped.shaping.schedule
        return {
            "weights": weights(agent), "timesteps": agent.num_timesteps, "rows": agent.n_envs,
            "prompts": prompts, "kl_coef": schedule.value, "rollouts": agent.num_rollouts,
            "episodes": [(e["r"], e["l"]) for e in agent.ep_info_buffer],
            "actions": agent.policy.generator.get_state(),
        }  # fmt: skip

    one, other = in_processes(learn, learn)
    for name in one["weights"]:
        assert torch.equal(one["weights"][name], other["weights"][name])
    assert one["rows"] == other["rows"] == 4
    assert not torch.equal(one["actions"], other["actions"])
    assert one["timesteps"] == other["timesteps"] >= 150
    assert one["kl_coef"] == other["kl_coef"] != 0.1
    assert one["prompts"] == other["prompts"] and len(one["prompts"][0]) == 8
    # The rows of both begin as those of one process.
    whole = text_agent()
    assert one["prompts"][0] == whole.collect().episodes["prompt"]
    for each in (one, other):
        assert len(each["episodes"]) == min(8 * each["rollouts"], 100)
        lengths = sum(length for _, length in each["episodes"])
        assert lengths == each["timesteps"] or each["rollouts"] > 12
    assert sorted(one["episodes"]) == sorted(other["episodes"])
    loaded = PPO.load(tmp_path / "agent", device="cpu")
    assert loaded.n_envs == 8 and loaded.num_timesteps == one["timesteps"]


def test_without_a_seed_all_learn_the_weights_of_the_first(weights, in_processes):
    def learn():
        return weights(PPO("MlpPolicy", "CartPole-v1", n_steps=8, device="cpu").learn(1))

    one, other = in_processes(learn, learn)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_callback_that_stops_in_one_process_stops_all(text_agent, in_processes):
    def learn(stops):
        def callback(local_variables, _):
            return not (stops and local_variables["self"].num_timesteps > 40)

        agent = text_agent().learn(10_000, callback)
        return agent.num_timesteps, agent.num_rollouts

    one, other = in_processes(lambda: learn(False), lambda: learn(True))
    assert one == other and 0 < one[0] < 10_000


def failing(episodes):
    """A reward that fails in the second process."""
    if ranks.rank() == 1:
        raise ConnectionError("the judge is away")
    return [0.0] * len(episodes)


def test_an_error_in_one_process_is_raised_in_all(text_agent, in_processes):
    def learn():
        agent = text_agent(env={"reward": failing})
        with pytest.raises(Exception, match="the judge is away") as caught:
            agent.learn(1000)
        return type(caught.value).__name__, agent.num_timesteps, agent.between_rollouts

    assert in_processes(learn, learn) == [("RewardError", 0, True)] * 2


def test_a_gradient_that_is_not_finite_in_one_process_ends_all(text_agent, in_processes):
    def learn():
        agent = text_agent()
        rollout = agent.collect()
        if ranks.rank() == 1:
            rollout.rewards[0, 0] = torch.inf
        with pytest.raises(FloatingPointError):
            agent.update(rollout)

    in_processes(learn, learn)


def test_rows_that_cannot_be_divided_are_refused(text_agent, in_processes):
    def make(kind, **arguments):
        with pytest.raises(ValueError) as caught:
            text_agent(kind, **arguments)
        return str(caught.value)

    (text, _) = in_processes(lambda: make(PPO, n_envs=9), lambda: make(PPO, n_envs=9))
    assert text.startswith("n_envs=9 cannot be divided equally among 2 processes")
    grouped = {"n_envs": 12, "group_size": 4}
    (text, _) = in_processes(lambda: make(GRPO, **grouped), lambda: make(GRPO, **grouped))
    assert "in groups of 4: use a multiple of 8" in text


def test_accelerate_is_named_where_it_is_missing(in_processes, monkeypatch):
    def make():
        with pytest.raises(ModuleNotFoundError, match="pip install accelerate"):
            ranks.join("cpu")

    monkeypatch.setitem(sys.modules, "accelerate", None)
    in_processes(make)


def test_the_functions_of_one_process_return_what_they_are_given():
    values = torch.arange(3.0)
    assert ranks.count() == 1 and ranks.is_main() and ranks.own_rows("n_envs", 7) == 7
    assert ranks.total(values) is values and ranks.gather(values) is values
    assert ranks.everyone("a") == ["a"] and ranks.sums([1, 2.5]) == [1, 2.5]
    with pytest.raises(ZeroDivisionError), ranks.together():
        raise ZeroDivisionError


@pytest.mark.parametrize("at", [2, 6, 9, 13, 20, 31])
@pytest.mark.parametrize("kind", [PPO, TRPO])
def test_a_process_dies_at_an_exchange(kind, at, text_agent, weights, tmp_path, monkeypatch):
    """The first one does not wait for it: it ends with an error, and saves what it has learned."""
    few = {"n_epochs": 2, "batch_size": 4} if kind is PPO else {"cg_max_steps": 3}
    noticing, left = exchange._noticing_loss, [at]  # exchanges until then

    def dying():
        if ranks.rank() == 1 and left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return noticing()

    def learn():
        agent = text_agent(kind, **few)
        left[0] += len(agent.policy.state_dict())  # which the first one sends
        with pytest.raises(ranks.ProcessLost):
            agent.learn(100_000, RunRecorder(tmp_path / "run"))
        return weights(agent)

    monkeypatch.setattr(exchange, "_noticing_loss", dying)
    codes = ended(start([learn, learn], tmp_path))
    assert codes == [0, -signal.SIGKILL], (tmp_path / "0.txt").read_text()
    learned = torch.load(tmp_path / "0.pt", weights_only=False)
    saved = weights(kind.load(tmp_path / "run", device="cpu"))
    assert all(torch.equal(saved[name], learned[name]) for name in learned)


# --- the command line ---------------------------------------------------------------------------


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


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_train_with_two_processes(options, tmp_path, in_processes):
    command = [*options, "--total-timesteps", "300"]
    in_processes(lambda: main(command), lambda: main(command))
    folder = RunFolder(tmp_path / "run")
    assert folder.finished and folder.settings()["processes"] == 2
    printed = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert "before" in printed[0] and "again" in printed[0] and printed[1] == ""
    assert PPO.load(folder.agent, device="cpu").n_envs == 16


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_run_and_the_work_is_saved(killed, options, tmp_path):
    folder = RunFolder(tmp_path / "run")
    command = [*options, "--total-timesteps", "1000000", "--save-every", "2 rollouts"]
    processes = start([lambda: main(command)] * 2, tmp_path)
    wait_for(lambda: rows(folder) > 6)
    os.kill(processes[killed], signal.SIGKILL)
    codes = ended(processes)
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] == 1
    printed = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert "Traceback" not in "".join(printed) and printed[1] == ""
    saved = PPO.load(folder.newest, device="cpu").num_timesteps
    last = folder.progress.read_text().splitlines()[-1].split(",")
    if killed == 1:
        assert "Another process of this run has ended" in printed[0] and "go on" in printed[0]
        # Nothing is lost; an update that was half done is saved, too.
        header = folder.progress.read_text().splitlines()[0].split(",")
        assert saved >= int(last[header.index("time/total_timesteps")])
    resume = ["train", "--resume", str(tmp_path / "run"), "--total-timesteps", str(saved + 200)]
    assert ended(start([lambda: main([*resume, "--device", "cpu"])] * 2, tmp_path)) == [0, 0]
    assert folder.finished and PPO.load(folder.agent, device="cpu").num_timesteps >= saved + 200


def test_a_signal_to_all_saves_once(options, tmp_path):
    folder = RunFolder(tmp_path / "run")
    command = [*options, "--total-timesteps", "1000000"]
    processes = start([lambda: main(command)] * 2, tmp_path)
    wait_for(lambda: rows(folder) > 4)
    for process in processes:
        os.kill(process, signal.SIGTERM)
    codes = ended(processes)
    assert codes[0] == 128 + signal.SIGTERM and codes[1] in (128 + signal.SIGTERM, 1)
    printed = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert "ended by SIGTERM" in printed[0] and printed[1] == ""
    header, *_, last = (line.split(",") for line in folder.progress.read_text().splitlines())
    saved = PPO.load(folder.newest, device="cpu").num_timesteps
    assert saved == int(last[header.index("time/total_timesteps")])


def test_what_is_refused_is_said_once(options, tmp_path):
    command = [*options, "--total-timesteps", "300", "--n-envs", "15"]
    assert ended(start([lambda: main(command)] * 2, tmp_path)) == [1, 1]
    printed = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert "n_envs=15 cannot be divided equally among 2 processes" in printed[0]
    assert "Traceback" not in printed[0] and printed[1].strip() == ""
    assert not (tmp_path / "run").exists()


def test_other_commands_have_one_process(tmp_path):
    assert ended(start([lambda: main(["evaluate", "run"])] * 2, tmp_path)) == [1, 1]
    assert "evaluate runs in one process" in (tmp_path / "0.txt").read_text()


# --- a real launcher ----------------------------------------------------------------------------


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
@pytest.mark.parametrize("ends", ["by itself", "SIGKILL", "SIGTERM"])
def test_torchrun(ends, options, tmp_path):
    total = "300" if ends == "by itself" else "1000000"
    launcher = subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "agents", *options, "--total-timesteps", total,
        ],
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
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
