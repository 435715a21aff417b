"""label, and duels that a person judges: in this process, ended by Ctrl-C, and what they refuse."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from agents.cli import main
from agents.preferences.labels import Labelling
from agents.preferences.labels.labelling import files
from agents.preferences.pairs import load_preferences

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="gradio is not installed"
)


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.fixture
def stopped(capsys, port, in_folder):
    """``stopped(line, act)``: what a command prints that shows the page.

    ``act`` is called in another thread as soon as the page is there; then comes Ctrl-C.
    """

    def run(line: str, act=lambda: None) -> str:
        failed = []

        def visit():
            try:
                address = f"http://127.0.0.1:{port}/"
                until = time.monotonic() + 120
                while True:
                    try:
                        page = urllib.request.urlopen(address, timeout=5).read().decode()
                        break
                    except OSError:
                        assert time.monotonic() < until
                        time.sleep(0.1)
                assert "Which response is better?" in page and "runs" not in page
                act()
            except BaseException as error:
                failed.append(error)
            finally:
                os.kill(os.getpid(), signal.SIGINT)

        # Whoever starts the tests in the background may have let them ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        visitor = threading.Thread(target=visit)
        visitor.start()
        main([*line.split(), "--port", str(port), "--device", "cpu"])
        visitor.join()
        assert not failed, failed
        return capsys.readouterr().out

    return run


def answer(path, name, choose, count=None):
    """Answer as another process does that has the file open."""
    labelling = Labelling(path)
    while (view := labelling.view(name)).pair is not None and view.answered != count:
        labelling.answer(name, view.turn, choose(view.pair))


@needs_gradio
def test_labels_go_on_and_make_preferences(stopped, in_folder, tmp_path):
    line = "label --pairs 12 --output new/l.jsonl --seed 3 --max-new-tokens 5"
    path = tmp_path / "new" / "l.jsonl"
    text = stopped(line, lambda: answer(path, "ada", lambda pair: "tie", count=2))
    assert "ada: 2 of 12 pairs answered, 0 preferences, 2 ties, 0 skipped" in text
    assert "reward-model" not in text
    pairs = files(path)[1].read_bytes()

    def longer(pair):
        return "left" if len(pair.responses[0]) >= len(pair.responses[1]) else "right"

    text = stopped(line + " --labeller Ada", lambda: answer(path, "ada", longer))
    assert "?labeller=Ada\n" in text and files(path)[1].read_bytes() == pairs
    assert "ada: 12 of 12 pairs answered, 10 preferences, 2 ties" in text
    assert "reward-model --preferences new/l.jsonl" in text
    preferences = load_preferences(path)
    assert len(preferences) == 10
    assert all(len(p.chosen) >= len(p.rejected) for p in preferences)
    with pytest.raises(SystemExit) as ending:
        main(line.replace("--seed 3", "--seed 4").split())
    assert "sampled with seed=3, not 4" in str(ending.value.code)


@needs_gradio
def test_a_duel_by_people(stopped, in_folder):
    """Ada prefers the first agent; bob agrees on all but three pairs, which are ties then."""
    line = "duel bundled bundled --judge person --pairs 10 --max-new-tokens 5"
    path = Path("runs/duel.jsonl")

    def vote():
        def first(pair):
            return "left" if pair.sources[0] == "bundled (1)" else "right"

        odd = {pair.responses for pair in Labelling(path).pairs[:3]}
        other = {"left": "right", "right": "left"}
        answer(path, "ada", first)
        answer(path, "bob", lambda p: other[first(p)] if p.responses in odd else first(p))

    text = stopped(line, vote)
    row = re.search(r"^bundled \(1\).* (\d+) +(\d+) +(\d+) +(\S+) \(", text, re.MULTILINE)
    assert row.groups() == ("7", "3", "0", "100.0%")
    assert "0.016" in text and "bob: 10 of 10" in text  # 2 / 2^7
    assert "Bradley-Terry" not in text
    again = stopped(line)  # of the stored answers
    assert row.group(0) in again


@needs_gradio
def test_a_duel_of_three_by_a_person(stopped, in_folder):
    path = Path("three.jsonl")

    def vote():
        labelling = Labelling(path)
        assert len(labelling.pairs) == 12 and len({p.sources for p in labelling.pairs}) > 3
        answer(path, "ada", lambda p: "left" if p.sources[0] < p.sources[1] else "right")

    text = stopped(
        "duel bundled bundled bundled --judge person --pairs 4 --max-new-tokens 5 "
        "--output three.jsonl",
        vote,
    )
    assert len(re.findall(r"against .* 4 +0 +0 +100\.0%", text)) == 3
    ranking = text[text.rindex("Bradley-Terry") :]
    assert [ranking.index(f"bundled ({k})") for k in (1, 2, 3)] == sorted(
        ranking.index(f"bundled ({k})") for k in (1, 2, 3)
    )


@needs_gradio
def test_a_conversation_is_kept_for_the_page(save_model, stopped, in_folder):
    """The prompt of the file is what the model reads; the messages are what a person reads."""
    model = Path(save_model(in_folder / "tiny"))
    template = "{% for m in messages %}{{ m.content }} {% endfor %}c"
    (model / "chat_template.jinja").write_text(template)
    Path("p.txt").write_text("a b\n")
    stopped(
        "label --agents tiny --prompts p.txt --chat --pairs 3 --max-new-tokens 4 --output l.jsonl"
    )
    for row in json.loads(Path("l.pairs.json").read_text())["pairs"]:
        assert row["prompt"] == "a b c"
        assert row["messages"] == [{"role": "user", "content": "a b"}]


REFUSED = {
    "label --pairs 0": "--pairs 0 must be",
    "label --port 70000": "--port 70000 must be a whole number from 1 to 65535",
    "label --agents a b c": "--agents takes one or two, not 3",
    "label --agents ./nothing": "'./nothing'",
    "label --prompts nothing.txt": "'nothing.txt' is not a file",
    "label --labeller {}": "must be a name of 1 to 40 characters".format,
    "label --output taken.jsonl": "'taken.jsonl' exists",
    "label --output .": "'.' is a folder",
    "duel bundled --judge person": "at least two agents",
    "duel bundled bundled --judge person --output taken.jsonl": "'taken.jsonl' exists",
}
REFUSED = {k.format("a" * 41): v() if callable(v) else v for k, v in REFUSED.items()}


@needs_gradio
@pytest.mark.parametrize("line", REFUSED)
def test_what_is_refused_in_one_sentence(line, in_folder, port):
    Path("taken.jsonl").touch()
    with pytest.raises(SystemExit) as ending:
        main(line.split() + ([] if "--port" in line else ["--port", str(port)]))
    message = str(ending.value.code)
    assert REFUSED[line] in message and "\n" not in message
    assert [path.name for path in in_folder.rglob("*")] == ["taken.jsonl"]


@needs_gradio
def test_a_port_in_use_is_named_before_anything_is_sampled(in_folder, port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(SystemExit, match=f"--port {port} cannot be used"):
            main(["label", "--port", str(port)])
    assert not list(in_folder.iterdir())


def test_without_gradio_one_sentence_says_what_to_install(in_folder, monkeypatch, port):
    monkeypatch.setitem(sys.modules, "gradio", None)  # as `import gradio` finds nothing
    for line in ("label", "duel bundled bundled --judge person"):
        with pytest.raises(SystemExit) as ending:
            main([*line.split(), "--port", str(port)])
        message = str(ending.value.code)
        assert "pip install 'gradio>=6.31,<7'" in message and "\n" not in message
    assert not list(in_folder.iterdir())
