"""What the commands show of foreign texts, names and errors; paths with ``~``; any encoding."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from agents import PPO
from agents.cli import main
from agents.runs import RunFolder, RunRecorder
from agents.runs.compare import compare

OBEYED = "\x1b]0;title\x07\x9b2J\u202e\u200b"
SEEN = "\\x1b]0;title\\x07\\x9b2J\\u202e\\u200b"


def assert_shown(*texts: str) -> None:
    """No text has anything that a terminal would obey or hide."""
    for text in texts:
        assert not set(text) & set("\x1b\x07\x9b\u202e\u200b"), text


@pytest.fixture
def foreign(tmp_path, monkeypatch) -> str:
    """A reward whose name, scores' names and errors are foreign."""
    (tmp_path / "foreign.py").write_text(
        f"def fails(prompt, response):\n    raise RuntimeError({OBEYED!r})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "foreign:fails"
    sys.modules.pop("foreign", None)


@pytest.mark.parametrize("name", ["[/b] [red]x[/red]", f":smile:{OBEYED}"])
def test_a_folder_is_named_as_it_is(name, small, tmp_path, printed, capsys):
    folder, shown = tmp_path / name / "run", name.replace(OBEYED, SEEN)
    text = printed("train", *small, "--output", str(folder))
    for begin in ("agent  ", "plot   ", "again  python"):
        line = next(line for line in text.splitlines() if line.startswith(begin))
        assert shown in line
    text += printed("evaluate", str(folder), "--eval-episodes", "4")
    text += printed("report", str(folder), "--heat-maps", "1")
    text += printed("watch", str(folder), "--episodes", "1")
    with pytest.raises(SystemExit):
        main(["doctor", str(folder)])
    out, err = capsys.readouterr()
    assert shown in out
    assert_shown(text, out, err)


def test_prompts_and_answers_are_shown_as_they_are(small, tmp_path, printed):
    prompts = tmp_path / "foreign.txt"
    prompts.write_text(f"a {OBEYED} [bold]b[/b]\n", encoding="utf-8")
    with_prompts = [str(prompts) if "prompts.txt" in each else each for each in small]
    text = printed("train", *with_prompts, "--show-samples", "2", "--output", str(tmp_path / "run"))
    assert text.count(f"a {SEEN} [bold]b[/b]") > 10
    text += printed("evaluate", str(tmp_path / "run"), "--eval-episodes", "4")
    text += printed("watch", str(tmp_path / "run"), "--episodes", "1")
    assert_shown(text)


def test_an_error_of_a_reward_is_shown_as_it_is(small, tmp_path, foreign, capsys):
    with pytest.raises(SystemExit):
        main(["train", *small, "--reward", foreign, "--output", str(tmp_path / "run")])
    out, err = capsys.readouterr()
    assert SEEN in out
    assert_shown(out, err)


def test_what_a_file_says_is_shown_as_it_is(small, tmp_path, printed, capsys):
    run = tmp_path / "run"
    printed("train", *small, "--output", str(run))
    for file in (run / "settings.json", run / "agent" / "agent.json",
                 run / "checkpoints" / "newest" / "agent.json"):  # fmt: skip
        content = json.loads(file.read_text())
        content["algorithm"] = content["policy"] = OBEYED
        file.write_text(json.dumps(content))
    shown = []
    for command in ("doctor", "evaluate", "watch"):
        with pytest.raises(SystemExit) as ended:
            main([command, str(run)])
        shown += [*capsys.readouterr(), str(ended.value.code)]
    assert SEEN in "".join(shown)
    assert_shown(*shown)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_an_output_that_is_not_utf_8_ends_nothing(encoding, small, tmp_path):
    prompts = tmp_path / "emoji.txt"
    prompts.write_text("a 😀 b\n", encoding="utf-8")
    with_prompts = [str(prompts) if "prompts.txt" in each else each for each in small]
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    with redirect_stdout(file):
        main(["train", *with_prompts, "--show-samples", "1", "--output", str(tmp_path / "run")])
        main(["evaluate", str(tmp_path / "run"), "--eval-episodes", "4"])
        with pytest.raises(SystemExit, match="0"):
            main(["train", "--help"])
    shown = file.buffer.getvalue().decode(encoding)
    assert "\\U0001f600" in shown and "again  python" in shown
    assert RunFolder(tmp_path / "run").finished


def test_a_plot_that_cannot_be_drawn_ends_nothing(small, tmp_path, printed, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("no fonts")

    monkeypatch.setattr("agents.runs.train.learning_curve", fails)
    text = printed("train", *small, "--output", str(tmp_path / "run"))
    assert "The plot cannot be drawn: RuntimeError: no fonts." in text and "again" in text


def test_a_tilde_is_the_users_folder(small, tmp_path, printed, monkeypatch, make_agent):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert str(home / "run") in printed("train", *small, "--output=~/run")
    printed("train", "--resume", "~/run", "--total-timesteps", "120", "--device", "cpu")
    printed("evaluate", "~/run", "--eval-episodes", "4")
    printed("report", "~/run", "--heat-maps", "0", "--output", "~/page.html")
    printed("preferences", "--agents", "~/run", "--pairs", "4", "--output=~/pairs.jsonl",
            "--device", "cpu")  # fmt: skip
    agent = make_agent("REINFORCE").learn(20, RunRecorder("~/recorded"))
    agent.save("~/agent")
    agent.policy.merge("~/merged")
    agent = make_agent("REINFORCE", tensorboard_log="~/logs").learn(1)
    assert PPO.load("~/run").num_timesteps >= 120
    compare({"a": lambda seed: make_agent("REINFORCE", seed=seed)}, seeds=[0], total_timesteps=1,
            eval_episodes=2, folder="~/compared", reference_episodes=0, device="cpu")  # fmt: skip
    assert {path.name for path in home.iterdir()} == {
        "run", "page.html", "pairs.jsonl", "recorded", "agent", "merged", "logs", "compared"
    }  # fmt: skip
    assert list(Path.cwd().iterdir()) == []
