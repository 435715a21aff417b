"""Run folders that are damaged, full or linked: a sentence that names the file; nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError
from stable_baselines3.common.callbacks import CallbackList, ConvertCallback

from agents import PPO, files
from agents.cli import main
from agents.evaluation import RandomTokens
from agents.evaluation.comparison import Comparison
from agents.runs import RunFolder, RunRecorder
from agents.runs.compare import compare
from agents.saving import resume


@pytest.fixture(scope="module")
def run(model_folder, tmp_path_factory) -> Path:
    """A finished run, which tests only copy."""
    folder = tmp_path_factory.mktemp("runs")
    for name, prompts in (("learning", "a b\nc\n"), ("held_out", "a\n")):
        (folder / f"{name}.txt").write_text(prompts)
    main([
        "train", "--model", model_folder, "--prompts", str(folder / "learning.txt"),
        "--eval-prompts", str(folder / "held_out.txt"), "--reward", "length(3)",
        "--total-timesteps", "40", "--n-envs", "8", "--eval-episodes", "8",
        "--max-new-tokens", "5", "--device", "cpu", "--reference-episodes", "96",
        "--output", str(folder / "run"),
    ])  # fmt: skip
    return folder / "run"


@pytest.fixture
def copied(run, tmp_path) -> Path:
    """A run that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "copied"))


def ended(*arguments: str, capsys) -> str:
    """What a command says that ends in a refusal."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    assert caught.value.code not in (0, None)
    said = capsys.readouterr()
    return f"{said.out}{said.err}{caught.value.code}"


def command(name: str, folder: Path) -> list[str]:
    return {
        "resume": ["train", "--resume", str(folder), "--total-timesteps", "120", "--device", "cpu"],
        "doctor": ["doctor", str(folder)],
        "report": ["report", str(folder), "--heat-maps", "0"],
    }.get(name, [name, str(folder), "--episodes", "2", "--device", "cpu"])


CONTENTS = {
    "empty": b"", "list": b"[1, 2]\n", "binary": bytes(range(256)),
    "utf-16": '{"a": 1}\n'.encode("utf-16"), "nested": b"[" * 100_000,
    "huge": b'{"step": ' + b"9" * 6000 + b"}\n", "other": b'{"versions": 1, "scores": [[]]}\n',
}  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("settings.json", ["evaluate", "resume", "report", "doctor", "watch"]),
        ("progress.csv", ["resume", "report", "doctor"]),
        ("reference_scores.json", ["evaluate", "resume", "report"]),
        ("evaluation.json", ["resume", "report", "doctor"]),
        ("episodes_before.jsonl", ["report", "resume"]),
        ("checkpoints/newest/agent.json", ["evaluate", "resume", "watch"]),
        ("checkpoints/newest/model.safetensors", ["evaluate", "resume"]),
    ],
)
def test_a_damaged_file_is_named_in_one_sentence(name, commands, content, copied, capsys):
    (copied / name).write_bytes(CONTENTS[content])
    for each in commands if content in ("list", "binary") else commands[:1]:
        if name == "progress.csv" and content == "empty" and each == "resume":
            continue  # a run that was ended in its first rollout
        said = ended(*command(each, copied), capsys=capsys)
        said_so = (" is damaged, ", " cannot be read (", "Cannot ", "has not logged a rollout")
        lines = [line for line in said.splitlines() if any(part in line for part in said_so)]
        assert len(lines) == 1, said
        where = "newest" if name.endswith("tensors") else Path(name).name
        assert where in lines[0] or (content, name) == ("empty", "progress.csv")
        assert "Traceback" not in said and max(map(len, said.splitlines())) < 1300


@pytest.mark.parametrize("damage", ["\x00\xff", "[1]\n{}\n", '{"step": "x"}\n'])
def test_completions_that_cannot_be_read_are_kept_and_named(damage, copied, capsys):
    whole = (copied / "completions.jsonl").read_bytes() + damage.encode("latin1") + b"\n"
    (copied / "completions.jsonl").write_bytes(whole)
    assert "completions.jsonl' is damaged" in ended(*command("resume", copied), capsys=capsys)
    assert (copied / "completions.jsonl").read_bytes() == whole


def test_half_a_line_at_the_end_is_one_of_a_killed_process(copied, capsys):
    for name in ("completions.jsonl", "progress.csv"):
        content = (copied / name).read_bytes()
        (copied / name).write_bytes(content + content[: len(content) // 3].split(b"\n")[0])
    main(command("resume", copied))
    assert RunFolder(copied).finished


@pytest.mark.parametrize("change", [{"options": 1}, {"task": {"id": 5}}, {"hyperparameters": []}])
def test_settings_of_other_kinds_are_damaged(change, copied, capsys):
    file = copied / "settings.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    for each in ("doctor", "report", "evaluate", "resume"):
        assert "settings.json" in ended(*command(each, copied), capsys=capsys)


def compare_random(folder: Path) -> Comparison:
    return compare(
        {"random": RandomTokens()}, seeds=[0], eval_episodes=2, folder=folder, device="cpu",
        reference_episodes=0, env_kwargs={"prompts": ["a"]},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["settings.json", "evaluation.json", "episodes_after.jsonl"])
def test_a_comparison_names_what_is_damaged(name, tmp_path):
    compare_random(tmp_path)
    file = tmp_path / "random-TextGen-v0-0" / name
    file.write_bytes(b"\xff\n")
    if name == "evaluation.json":  # what never learns is measured again
        assert len(compare_random(tmp_path).runs) == 1 and RunFolder(file.parent).finished
    else:
        with pytest.raises(files.DamagedFile, match=name):
            compare_random(tmp_path)


def test_a_result_that_lacks_episodes_is_damaged(tmp_path):
    compare_random(tmp_path)
    file = tmp_path / "random-TextGen-v0-0" / "episodes_after.jsonl"
    file.write_text(file.read_text().splitlines(keepends=True)[0])
    with pytest.raises(files.DamagedFile, match="it has 1 of 2 episodes"):
        compare_random(tmp_path)


def test_a_result_without_its_seconds_is_damaged(tmp_path):
    compare_random(tmp_path)
    file = tmp_path / "random-TextGen-v0-0" / "evaluation.json"
    content = json.loads(file.read_text())
    del content["after"]["seconds"]
    file.write_text(json.dumps(content))
    with pytest.raises(files.DamagedFile, match=r"evaluation\.json"):
        compare_random(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("kl_coef", "text"), ("eval_episodes", -1)])
def test_options_out_of_their_range_are_damaged(name, value, copied, capsys):
    file = copied / "settings.json"
    content = json.loads(file.read_text())
    content["options"][name] = value
    file.write_text(json.dumps(content))
    for each in ("evaluate", "resume"):
        said = ended(*command(each, copied), capsys=capsys)
        assert "settings.json" in said and name in said


# --- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["agent", "checkpoints", "checkpoints/newest", "checkpoints/best", "settings.json", ".lock",
     "progress.csv", "completions.jsonl", "learning_curve.png", "evaluation.json"],
)  # fmt: skip
def test_nothing_follows_a_link_out_of_the_run(name, copied, tmp_path, capsys):
    target = tmp_path / "mine"
    (copied / name).rename(target)
    (copied / name).symlink_to(target)
    before = {path: path.read_bytes() for path in [target, *target.rglob("*")] if path.is_file()}
    said = ended(*command("resume", copied), capsys=capsys)
    assert "is a link" in said and Path(name).name in said
    with pytest.raises(FileExistsError, match="is a link"):
        RunFolder.create(copied, overwrite=True)
    assert {path: path.read_bytes() for path in before} == before


def test_a_link_that_points_nowhere_is_none_either(copied, tmp_path, capsys):
    (copied / "learning_curve.png").unlink()
    (copied / "learning_curve.png").symlink_to(tmp_path / "new.png")
    assert "is a link" in ended(*command("resume", copied), capsys=capsys)
    assert not (tmp_path / "new.png").exists()


def test_a_link_that_is_made_while_a_run_learns(copied, tmp_path):
    """An agent is saved beside the link's target, or not at all."""
    agent = PPO.load(copied)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")

    def plants(locals_, globals_):
        if not (copied / "checkpoints" / "newest").is_symlink():
            shutil.rmtree(copied / "checkpoints" / "newest")
            (copied / "checkpoints" / "newest").symlink_to(tmp_path / "mine")

    recorder = RunRecorder(copied, resume=True)
    with pytest.raises(FileExistsError, match="is a link"):
        agent.learn(
            20, CallbackList([recorder, ConvertCallback(plants)]), reset_num_timesteps=False
        )
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_comparison_writes_into_no_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "random-TextGen-v0-0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match="is a link"):
        compare({"random": RandomTokens()}, seeds=[0], folder=tmp_path / "all")
    assert list((tmp_path / "elsewhere").iterdir()) == []


# --- what cannot be written ----------------------------------------------------------------------


FULL = [
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    SafetensorError("Error while serializing: failed to write whole buffer"),
    SafetensorError('Io(Os { code: 28, kind: StorageFull, message: "No space left on device" })'),
    Exception("No space left on device (os error 28)"),
    OSError(errno.ENOSPC, "No space left on device"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_disk_at_a_checkpoint_is_an_ending(error, copied, capsys, monkeypatch):
    def full(*arguments):
        raise error

    monkeypatch.setattr(resume, "save_file", full)
    said = ended(*command("resume", copied), capsys=capsys)
    assert "Cannot write" in said and "go on  python -m agents train --resume" in said
    assert RunFolder(copied).has_checkpoint


def test_an_error_of_a_policy_that_is_none_of_the_disk_is_not_hidden(copied, monkeypatch):
    monkeypatch.setattr(resume, "save_file", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(command("resume", copied))


# --- the log --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["progress.csv", "completions.jsonl"])
def test_an_error_while_the_log_opens_is_the_one_that_is_said(name, copied, capsys):
    agent = PPO.load(copied)
    (copied / name).unlink()
    (copied / name).mkdir()
    with pytest.raises(IsADirectoryError):
        agent.learn(20, RunRecorder(copied, resume=True), reset_num_timesteps=False)
    assert agent.given_logger is None
    RunFolder(copied).lock()  # nobody holds it
    assert name in ended(*command("resume", copied), capsys=capsys)


def test_an_error_of_the_events_closes_the_table_and_unlocks(copied, monkeypatch):
    def fails(*arguments, **keywords):
        raise PermissionError(errno.EACCES, "no", "events")

    agent = PPO.load(copied)
    monkeypatch.setattr("agents.runs.log.SummaryWriter", fails)
    with pytest.raises(PermissionError):
        agent.learn(20, RunRecorder(copied, resume=True), reset_num_timesteps=False)
    monkeypatch.undo()
    agent.learn(20, RunRecorder(copied, resume=True), reset_num_timesteps=False)


# --- runs that ended before they began ------------------------------------------------------------


@pytest.fixture
def fails(tmp_path, monkeypatch):
    """A reward that raises an error in its first call, as "module:function"."""
    (tmp_path / "never.py").write_text("def scores(episodes):\n    raise ValueError('no')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "never:scores"
    sys.modules.pop("never", None)


def test_a_run_that_ended_before_it_began_leaves_no_folder(
    fails, model_folder, tmp_path, monkeypatch, capsys
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    small = ["--model", model_folder, "--n-envs", "8", "--max-new-tokens", "3", "--device", "cpu"]
    said = ended("train", *small, "--reward", fails, capsys=capsys)
    assert "ValueError" in said or "no" in said
    assert "go on" not in said and list(Path.cwd().iterdir()) == []


def test_the_same_in_python(text_env_agent, tmp_path):
    with pytest.raises(Exception, match="no"):
        text_env_agent.learn(20, RunRecorder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def text_env_agent(make_agent):
    def never(episodes):
        raise ValueError("no")

    return make_agent("REINFORCE", env={"reward": never})


def test_fewer_tokens_than_done_are_said(copied, capsys):
    done = PPO.load(copied).num_timesteps
    main(["train", "--resume", str(copied), "--total-timesteps", "5", "--device", "cpu"])
    said = capsys.readouterr().out
    assert f"learned from {done} tokens already, more than the 5" in said
    assert RunFolder(copied).settings()["options"]["total_timesteps"] == done
    main(["train", "--resume", str(copied), "--device", "cpu"])
    assert "already" not in capsys.readouterr().out


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_mode_of_the_umask(mask, make_agent, tmp_path):
    before = os.umask(mask)
    try:
        make_agent("PPO").learn(20, RunRecorder(tmp_path / "run")).save(tmp_path / "agent")
    finally:
        os.umask(before)
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()
    }
    assert len(modes) > 10
    assert {name: mode for name, mode in modes.items() if mode != 0o666 & ~mask} == {}
