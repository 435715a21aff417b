"""``watch``: in a pipe it is plain text, in a terminal it has colours and fits 80 columns."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from rich.console import Console

from agents.cli import main, watch_command
from agents.evaluation.traces import TracedEpisode


@pytest.fixture(scope="module")
def run(small, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "ppo"
    main(["train", *small, "--output", str(folder)])
    return str(folder)


def test_in_a_pipe_it_is_plain_text_at_once(run, printed):
    began = time.monotonic()
    text = printed("watch", run, "--episodes", "2", "--speed", "0.01", "--device", "cpu")
    assert time.monotonic() - began < 60  # one token alone would take 100 seconds
    assert "\x1b" not in text
    assert text.count("episode ") == 2 and text.count("score ") == 2
    assert all(len(line) <= 80 for line in text.splitlines()[1:])  # the first one has a path
    for name in ("token", "prob.", "value", "KL", "advantage"):
        assert name in text


def test_options(run, printed):
    def show(*options):
        return printed("watch", run, "--episodes", "1", "--device", "cpu", *options)

    assert "c c c\n" in show("--prompt", "c c c")
    greedy = {show("--deterministic", "--prompt", "c", "--seed", str(seed)) for seed in range(2)}
    assert len(greedy) == 1
    assert show("--seed", "1") == show("--seed", "1")
    for wrong in (["--speed", "-1"], ["--episodes", "0"]):
        with pytest.raises(SystemExit, match=wrong[0]):
            show(*wrong)
    with pytest.raises(SystemExit, match="There is no agent"):
        main(["watch", "nowhere"])


def episode(pieces, **changes) -> TracedEpisode:
    numbers = np.linspace(-1, 1, len(pieces))
    values = dict(
        prompt="A prompt", response="".join(pieces), pieces=pieces, probabilities=numbers**2,
        values=numbers, kls=numbers, advantages=-numbers, score=0.5, episode_return=0.4,
        finish_reason="length", replies=[""] * len(pieces),
    )  # fmt: skip
    return TracedEpisode(**values | changes)


@pytest.fixture
def terminal(monkeypatch) -> Console:
    """A terminal of 80 columns with all colours."""
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system="truecolor", width=80,
        highlight=False, record=True,
    )  # fmt: skip
    monkeypatch.setattr(watch_command, "console", console)
    return console


def test_in_a_terminal_it_has_colours_and_fits(terminal):
    pieces = [f" word{i}" for i in range(30)] + [" 漢字漢字漢字漢字漢字漢字漢字", "\n", "x" * 60]
    watch_command.play(episode(pieces), "episode 1", pause=0)
    colours = terminal.file.getvalue()
    assert "48;5;75m" in colours and "48;5;208m" in colours
    text = terminal.export_text()
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    for name in ("value", "KL", "advantage"):  # once above the numbers, once before the text
        assert text.count(name) >= 2
    assert "cut at the token budget" in text


def test_what_a_terminal_would_obey_is_shown(terminal):
    watch_command.play(
        episode([" a", "\x1b]0;title\x07", "[red]"], prompt="\x1b[2J"), "episode 1", 0
    )
    text = terminal.export_text(styles=False)
    assert "\\x1b]0;title\\x07" in text and "\\x1b[2J" in text and "[red]" in text


def test_each_token_takes_its_time(terminal, monkeypatch):
    waits = []
    monkeypatch.setattr(watch_command.time, "sleep", waits.append)
    watch_command.play(episode([" a", " b", " c"], values=None), "episode 1", 0.25)
    assert waits == [0.25] * 3
    assert "value" not in terminal.export_text()


def test_replies_stand_between_tokens_and_in_the_text(terminal):
    replies = ["", " the reply\n", ""]
    shown = episode([" my", " first", " last"], replies=replies, finish_reason="end")
    watch_command.play(shown, "title", 0)
    text = terminal.export_text()
    assert "ended by the environment" in text
    plain = [line.strip() for line in text.splitlines()]
    first = next(i for i, line in enumerate(plain) if line.startswith("·first"))
    assert plain[first + 1] == "‹ the reply⏎›"
    assert "value       my first‹ the reply⏎› last" in plain
