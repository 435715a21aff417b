"""The folder of a run: completions, checkpoints, the log, and going on with all of them."""

from __future__ import annotations

import errno
import json
import signal

import datasets
import pandas as pd
import pytest
import torch
from stable_baselines3.common.callbacks import CallbackList, ConvertCallback

from agents import GRPO, PPO
from agents.runs import Interrupted, RunFolder, RunRecorder, Signals
from agents.runs.recorder import parse_interval
from agents.training.progress import clock


@pytest.fixture
def text_agent(model_folder):
    def make(cls=PPO, reward="length(3)", **arguments):
        return cls(
            "CausalLMPolicy", "TextGen-v0", n_envs=16, seed=3, device="cpu", learning_rate=1e-2,
            policy_kwargs={"model": model_folder}, **arguments,
            env_kwargs={"prompts": ["a b", "c"], "reward": reward, "max_new_tokens": 5,
                        "reference": model_folder, "kl_coef": 0.1},
        )  # fmt: skip

    return make


def test_a_run_leaves_its_folder(text_agent, tmp_path):
    reward = {"length(3)": 1.0, "keyword(b)": 0.5}
    agent = text_agent(reward=reward).learn(400, RunRecorder(tmp_path / "run", "2 rollouts"))
    run = RunFolder(tmp_path / "run")
    settings = run.settings()
    assert settings["algorithm"] == "PPO" and settings["task"]["kwargs"]["reward"] == reward
    assert {"versions", "commit", "threads", "hyperparameters"} <= settings.keys()

    progress = pd.read_csv(run.progress)
    assert len(progress) == agent.num_rollouts
    assert progress["time/total_timesteps"].iloc[-1] == agent.num_timesteps
    new = {"score_std", "finished", "entropy", "score/length(3)", "score/keyword(b)"}
    assert {f"rollout/{name}" for name in new} | {"train/explained_variance"} <= {*progress}
    assert (progress["rollout/finished"].between(0, 1)).all()

    completions = pd.read_json(run.completions, lines=True)
    assert len(completions) == 8 * agent.num_rollouts
    columns = {"step", "prompt", "response", "score", "kl", "length", "finish_reason"}
    assert columns | {"score/length(3)", "score/keyword(b)"} <= {*completions}
    assert set(completions["step"]) == set(progress["time/total_timesteps"])
    assert set(completions["prompt"]) == {"a b", "c"}
    parts = completions["score/length(3)"] + 0.5 * completions["score/keyword(b)"]
    assert (parts - completions["score"]).abs().max() < 1e-6
    cache = str(tmp_path / "cache")
    assert len(datasets.load_dataset("json", data_files=str(run.completions), cache_dir=cache))

    assert PPO.load(run.path).num_timesteps == agent.num_timesteps  # the newest
    best = json.loads((run.best / "agent.json").read_text())
    assert best["last_return"] >= json.loads((run.newest / "agent.json").read_text())["last_return"]
    PPO.load(run.best)


def test_a_run_goes_on_in_its_folder(text_agent, tmp_path):
    text_agent().learn(300, RunRecorder(tmp_path / "run", "3 rollouts"))
    again = PPO.load(tmp_path / "run")
    # What was logged beyond the checkpoint, by a process that was killed, is removed.
    for name, line in (("progress.csv", "torn"), ("completions.jsonl", '{"step": 99999}\n{"st')):
        with open(tmp_path / "run" / name, "a") as file:
            file.write(line)
    recorder = RunRecorder(tmp_path / "run", "3 rollouts", resume=True)
    again.learn(100, recorder, reset_num_timesteps=False)
    again.learn(50, RunRecorder(tmp_path / "run", resume=True), reset_num_timesteps=False)
    progress = pd.read_csv(tmp_path / "run" / "progress.csv")
    steps = progress["time/total_timesteps"]
    assert len(progress) == again.num_rollouts and steps.is_monotonic_increasing
    assert progress["time/time_elapsed"].is_monotonic_increasing
    completions = pd.read_json(tmp_path / "run" / "completions.jsonl", lines=True)
    assert len(completions) == 8 * again.num_rollouts and completions["step"].max() < 99999


def test_a_run_is_not_mixed_with_another(text_agent, tmp_path):
    def meddles(locals_, globals_):
        if text_agent_.num_timesteps > 50:
            with pytest.raises(BlockingIOError):  # in this process, too
                RunFolder.create(tmp_path / "run", overwrite=True)
        return True

    text_agent_ = text_agent()
    callbacks = [RunRecorder(tmp_path / "run"), ConvertCallback(meddles)]
    text_agent_.learn(200, CallbackList(callbacks))
    first = (tmp_path / "run" / "progress.csv").read_bytes()
    with pytest.raises(FileExistsError, match=r"There is a run in .*resume=True.*overwrite=True"):
        text_agent().learn(50, RunRecorder(tmp_path / "run"))
    assert (tmp_path / "run" / "progress.csv").read_bytes() == first
    text_agent().learn(50, RunRecorder(tmp_path / "run", overwrite=True))


def test_only_the_agent_of_the_run_goes_on(text_agent, tmp_path):
    folder = tmp_path / "run"
    text_agent().learn(100, RunRecorder(folder))
    first = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    again = PPO.load(folder)
    with pytest.raises(ValueError, match="reset_num_timesteps=False"):
        again.learn(50, RunRecorder(folder, resume=True))
    with pytest.raises(ValueError, match="is one of PPO at"):
        text_agent(GRPO, group_size=4).learn(50, RunRecorder(folder, resume=True))
    with pytest.raises(ValueError, match="no checkpoint to go on from"):
        (tmp_path / "none").mkdir()
        again.learn(50, RunRecorder(tmp_path / "none", resume=True), reset_num_timesteps=False)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == first
    again = PPO.load(folder)
    recorder = RunRecorder(folder, resume=True)
    again.learn(50, recorder, reset_num_timesteps=False)
    again.learn(50, recorder, reset_num_timesteps=False)  # the same one, once more
    again.learn(50, reset_num_timesteps=False)  # and without one
    assert len(pd.read_csv(folder / "progress.csv")) < again.num_rollouts


def test_folders_are_numbered_refused_or_replaced(tmp_path):
    def write(run):
        run.write_settings({})
        run.unlock()
        return run

    first = write(RunFolder.numbered(tmp_path / "run"))
    assert write(RunFolder.numbered(tmp_path / "run")).path.name == "run-2"
    (first.path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="There is a run in"):
        RunFolder.create(first.path)
    replaced = RunFolder.create(first.path, overwrite=True)
    assert not replaced.is_run() and (first.path / "mine.txt").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="not empty and holds no run"):
            RunFolder.create(tmp_path / "other", overwrite)
    with pytest.raises(FileNotFoundError, match="There is no run in"):
        RunFolder(tmp_path / "other").settings()


def test_torn_files_mean_unfinished(tmp_path):
    run = RunFolder(tmp_path)
    assert not run.finished
    run.evaluation.write_text('{"after": {')
    assert not run.finished
    run.evaluation.write_text('{"after": {}}')
    assert run.finished


def test_a_reward_without_spread_is_noticed(text_agent, tmp_path, capsys):
    text_agent(reward=lambda episodes: [1.0] * len(episodes)).learn(
        250, CallbackList([RunRecorder(tmp_path / "constant")])
    )
    assert capsys.readouterr().out.count("all scores were equal") == 1
    by_prompt = lambda episodes: [float(len(episode.prompt)) for episode in episodes]  # noqa: E731
    text_agent(GRPO, by_prompt, group_size=4).learn(250, RunRecorder(tmp_path / "groups"))
    assert capsys.readouterr().out.count("all scores of each group were equal") == 1
    text_agent().learn(250, RunRecorder(tmp_path / "fine", show_samples=2))
    shown = capsys.readouterr().out
    assert "equal" not in shown and len(shown.splitlines()) >= 6


def test_what_is_said_of_equal_scores_is_said_ever_more_seldom(tmp_path, capsys):
    recorder = RunRecorder(tmp_path)
    for _ in range(200):  # three equal rollouts, then one that is not
        for scores in ([1, 1], [1, 1], [1, 1], [1, 2]):
            recorder._warn_without_spread(scores, 1)
    for _ in range(200):
        recorder._warn_without_spread([1, 1], 1)
    said = capsys.readouterr().out
    assert "In 3 rollouts" in said and "In 30 rollouts" in said
    assert said.count("all scores were equal") == 2


def test_an_error_in_learning_saves_what_was_learned(text_agent, tmp_path):
    agent = text_agent()

    def fails(episodes, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("broken")
        return [1.0 / len(e.response_ids) for e in episodes]

    agent = text_agent(reward=fails)
    with pytest.raises(Exception, match="broken"):
        agent.learn(1000, RunRecorder(tmp_path / "run"))
    saved = json.loads((tmp_path / "run" / "checkpoints" / "newest" / "agent.json").read_text())
    assert saved["num_timesteps"] == agent.num_timesteps > 0 and saved["num_rollouts"] == 3


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("2 min", (120, None)), ("30s", (30, None)), ("1.5 hours", (5400, None)),
     ("20 rollouts", (float("inf"), 20)), ("1 rollout", (float("inf"), 1))],
)  # fmt: skip
def test_intervals(text, wanted):
    assert parse_interval(text) == wanted


@pytest.mark.parametrize("text", ["", "2", "-1 min", "0 rollouts", "1.5 rollouts", "2 weeks", "."])
def test_intervals_that_are_none(text):
    with pytest.raises(ValueError, match="save_every="):
        parse_interval(text)


def test_times():
    assert [clock(s) for s in (0.4, 59.6, 61, 3725)] == ["0:00", "1:00", "1:01", "1:02:05"]


@pytest.fixture
def ctrl_c():
    """SIGINT raises: whoever starts the tests in the background may have let them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_waits_for_the_end_of_a_block(ctrl_c):
    with Signals() as signals:
        with pytest.raises(Interrupted) as caught, signals.waiting():
            signal.raise_signal(signal.SIGTERM)
            reached = True
        assert reached and caught.value.exit_code == 143
        signals.check()  # it is raised once
    with Signals() as signals, pytest.raises(Interrupted), signals.waiting():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the second one does not wait
        pytest.fail("not reached")
    with Signals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        pytest.fail("not reached")


def test_another_error_that_a_signal_led_to_is_the_signal(ctrl_c):
    with pytest.raises(Interrupted) as caught, Signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:  # as an import does that was broken off
            raise ImportError("half a module") from error
    assert caught.value.exit_code == 143
    with pytest.raises(OSError, match="full"), Signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Interrupted:
            raise OSError("full")  # noqa: B904, as saving does that fails


def test_a_signal_that_the_process_ignores_stays_ignored(ctrl_c):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Signals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.received is None
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_full_disk_at_the_end_of_a_rollout_loses_no_work(text_agent, tmp_path, monkeypatch):
    """Nothing is half done then: what was learned is saved, and the run goes on bit for bit."""
    whole = text_agent().learn(400)
    agent, written = text_agent(), []
    write = RunRecorder._write_completions

    def full(recorder, episodes):
        written.append(1)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(recorder, episodes)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(RunRecorder, "_write_completions", full)
        agent.learn(400, callback=RunRecorder(tmp_path / "run", save_every="1 h"))
    again = PPO.load(tmp_path / "run", device="cpu")
    assert again.num_rollouts == 2 and 0 < again.num_timesteps < 400
    left = 400 - again.num_timesteps
    recorder = RunRecorder(tmp_path / "run", resume=True)
    again.learn(left, callback=recorder, reset_num_timesteps=False)
    assert again.num_timesteps == whole.num_timesteps
    for one, other in zip(again.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(one, other)
