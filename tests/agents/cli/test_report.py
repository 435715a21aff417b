"""The page of a report: what is on it, and that any text stays text."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from pathlib import Path

import pytest

from agents import compare
from agents.cli import main
from agents.reports import as_page, read_runs

NASTY = "<script>alert(1)</script>&amp;\"'</style><img src=x onerror=alert(2)>\x1b[31m\n\n"


class Reader(html.parser.HTMLParser):
    """The tags of a page, and its text."""

    EMPTY = ("meta", "link", "br", "img", "path", "use")

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.text, self.open, self.wrong = [], "", [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory) -> list[Path]:
    """Two short runs of one task."""
    folder = tmp_path_factory.mktemp("runs")
    for agent in ("ppo", "grpo"):
        grouped = ["--group-size", "4"] if agent == "grpo" else []
        output = ["--output", str(folder / agent)]
        main(["train", *small, "--agent", agent, *grouped, *output])
    return [folder / "ppo", folder / "grpo"]


@pytest.fixture
def copied(runs, tmp_path) -> Path:
    """A run that a test may change."""
    return Path(shutil.copytree(runs[0], tmp_path / "copied"))


def report(*arguments) -> str:
    """The page that the command writes."""
    output = Path(arguments[0]).parent / "page.html"
    main(["report", *map(str, arguments), "--output", str(output), "--device", "cpu"])
    return output.read_text(encoding="utf-8")


def test_several_runs_are_beside_each_other(runs):
    page = report(*runs, "--heat-maps", "2")
    reader = Reader(page)
    assert not reader.wrong and not reader.open
    assert [tag for tag, _ in reader.tags].count("svg") >= 6
    cards = [attrs for tag, attrs in reader.tags if attrs.get("class") == "card"]
    assert len(cards) == 2 * len(runs)
    for text in ("2 runs", "ppo", "grpo", "What differs", "group_size", "version of torch"):
        assert text in reader.text
    value, kl, advantage = (page.count(f"<dt>{name}</dt>") for name in ("value", "KL", "advantage"))
    assert (value, kl, advantage) == (2, 4, 4)  # GRPO has no critic


def test_the_folder_of_a_comparison_stands_for_the_runs_that_learned(small, tmp_path, capsys):
    names = ["reinforce", "sb3:PPO(n_steps=4)", "untouched"]
    main(["compare", *small, "--agents", *names, "--seeds", "2", "--output", str(tmp_path / "all")])
    text = Reader(report(tmp_path / "all", "--heat-maps", "1")).text
    assert "4 runs" in text and "untouched, seed" not in text
    assert "sb3:PPO, seed 1" in text
    after = json.loads((tmp_path / "all" / "sb3-PPO-n_steps=4-1" / "evaluation.json").read_text())
    for name in ("return", "score"):
        assert f"{after['after'][name]['mean']:+z.3f}" in text
    assert "score against KL" in report(tmp_path / "all", "--heat-maps", "0")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["doctor", str(tmp_path / "all")])
    said = capsys.readouterr()
    assert said.out.count("rollouts, ") == 4 and said.err == ""


def test_it_needs_nothing_from_elsewhere(runs):
    page = report(*runs, "--heat-maps", "0")
    assert "<script" not in page
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert addresses and all(one.startswith(("#", "data:")) for one in addresses)


def test_numbers_are_those_of_the_run(runs):
    summaries = json.loads((runs[0] / "evaluation.json").read_text())
    text = Reader(report(runs[0], "--heat-maps", "0")).text
    for when in ("before", "after"):
        assert f"{summaries[when]['return']['mean']:+z.3f}" in text
    for line in (runs[0] / "episodes_after.jsonl").read_text().splitlines()[:8]:
        assert json.loads(line)["response"].strip() in text


def test_any_text_stays_text(copied):
    for when in ("before", "after"):
        file = copied / f"episodes_{when}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [row | {"prompt": NASTY, "response": NASTY} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = json.loads((copied / "settings.json").read_text())
    settings["task"]["kwargs"]["reward"] = NASTY
    (copied / "settings.json").write_text(json.dumps(settings))
    named = Path(shutil.move(copied, copied.with_name("<b>&$run$")))
    page = as_page(read_runs([named, named.parent / named.name]))
    reader = Reader(page)
    names = {tag for tag, _ in reader.tags}
    assert not reader.wrong and not names & {"script", "img", "b onerror"}
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)
    assert "<script>alert(1)</script>&amp;\"'" in reader.text and "\x1b" not in page


def test_a_run_that_goes_on_has_a_report(copied):
    """No evaluation, no optimum, and an agent that is not there yet."""
    for name in ("evaluation.json", "reference_scores.json", "episodes_before.jsonl"):
        (copied / name).unlink()
    shutil.rmtree(copied / "checkpoints")
    shutil.rmtree(copied / "agent")
    text = Reader(report(copied)).text
    assert "No evaluation was written yet." in text and "There is no agent" in text


def test_where_the_file_is_by_default(runs, copied):
    main(["report", str(copied), "--heat-maps", "0"])
    assert (copied / "report.html").is_file()
    main(["report", *map(str, runs), "--heat-maps", "0"])
    assert (runs[0].parent / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "at least one folder"),
        (["nowhere"], "no run in 'nowhere'"),
        (["nowhere", "--heat-maps", "-1"], "--heat-maps -1 must be"),
    ],
)
def test_what_cannot_be_reported_ends_in_one_sentence(arguments, sentence):
    with pytest.raises(SystemExit, match=sentence):
        main(["report", *arguments])


def test_comparisons_made_in_python(model_folder, tmp_path, capsys):
    """A model of others has no agent to sample from; other tasks than text have no texts."""
    task = {
        "tokenizer": model_folder, "reference": model_folder, "kl_coef": 0.1, "prompts": ["a b"],
        "reward": "length(3)", "max_new_tokens": 30, "min_new_tokens": 30,
    }  # fmt: skip
    settings = {
        "seeds": 1, "eval_episodes": 4, "reference_episodes": 32, "device": "cpu",
        "report": lambda _: None,
    }  # fmt: skip
    # Of the second one no episode has ended yet when its learning ends.
    names = ["reinforce(n_envs=4)", "sb3:A2C(n_envs=4, n_steps=2)"]
    text, control = tmp_path / "text", tmp_path / "control"
    compare(names, env_kwargs=task, total_timesteps=8, folder=text, **settings)
    compare(["ppo(n_envs=2)"], "CartPole-v1", total_timesteps=64, folder=control, **settings)
    page = Reader(report(text, "--heat-maps", "1")).text
    assert "A2C, seed 0" in page and "is not kept" in page and "There is no agent" not in page
    assert "PPO, seed" in Reader(report(control, "--heat-maps", "0")).text
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["doctor", str(text), str(control)])
    said = capsys.readouterr().out
    assert "A2C, reward length(3), seed 0, 1 rollouts, 8 tokens" in said and "steps" in said
    compare(["random"], env_kwargs=task, folder=tmp_path / "none", **settings)
    for command in ("report", "doctor"):
        with pytest.raises(SystemExit):
            main([command, str(tmp_path / "none")])
    assert "'" + str(tmp_path / "none") + "' has a log" in capsys.readouterr().err
