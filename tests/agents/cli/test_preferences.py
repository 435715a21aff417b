"""preferences, reward-model and duel: one after the other, and what they refuse."""

from __future__ import annotations

import re

import pytest

from agents.cli import main
from agents.preferences.pairs import load_preferences


@pytest.fixture
def printed(capsys, tmp_path, monkeypatch):
    """``printed("duel a b")``: what the command line prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(line: str) -> str:
        main(line.split())
        return capsys.readouterr().out

    return run


def test_from_preferences_to_a_duel(printed, tmp_path):
    text = printed(
        "preferences --pairs 120 --reward length(12) --label-temperature 0 --output p.jsonl"
    )
    assert "120 preferences by length(12)" in text and "agrees with" in text
    preferences = load_preferences("p.jsonl")
    assert len(preferences) == 120 and len({p.prompt for p in preferences}) > 10
    scores = [(p.data["chosen_score"], p.data["rejected_score"]) for p in preferences]
    assert all(chosen >= rejected for chosen, rejected in scores)
    assert {p.data["chosen_by"] for p in preferences} == {"bundled"}

    printed("preferences --pairs 40 --reward length(12) --seed 1 --output more.jsonl")
    text = printed(
        "reward-model --preferences p.jsonl more.jsonl --output rm --n-epochs 1 --held-out 0.2"
    )
    assert "learning from 128 preferences" in text
    assert re.search(r"accuracy on 32 held-out pairs .*%\]; a perfect judge (100|9\d)\.", text)
    assert (tmp_path / "rm" / "calibration.png").read_bytes().startswith(b"\x89PNG")

    printed(
        "train --agent reinforce --reward rm --total-timesteps 40 --n-envs 4 --eval-episodes 4 "
        "--reference-episodes 0 --output run"
    )
    assert re.search(r"judge .*/rm\n", printed("duel run bundled --pairs 4"))  # of the first's task
    untouched, bundled = (
        printed(f"duel run {name} --pairs 4") for name in ("untouched", "bundled")
    )
    assert untouched.replace("untouched", "bundled").split() == bundled.split()
    text = printed("duel run bundled bundled --pairs 40 --judge length(12) --seed 3")
    assert "judge length(12)" in text
    rows = [line for line in text.splitlines() if "against" in line]
    assert [row.split()[0] for row in rows] == ["run", "run", "bundled"]
    for row in rows:
        wins, ties, losses = map(int, re.findall(r" (\d+)(?= )", row.split("against")[1])[-3:])
        assert wins + ties + losses == 40
    assert "Bradley-Terry" in text and "bundled (2)" in text and "bundled (3)" in text


def test_pairs_of_two_agents_name_their_authors_in_random_order(printed):
    printed("preferences --agents bundled bundled --pairs 40 --output p.jsonl --seed 1")
    first = open("p.jsonl", "rb").read()
    printed("preferences --agents bundled bundled --pairs 40 --output q.jsonl --seed 1")
    assert open("q.jsonl", "rb").read() == first


REFUSED = {
    "preferences --pairs 0": "--pairs 0 must be",
    "preferences --label-temperature -1": "temperature=-1.0 must be",
    "preferences --agents a b c": "--agents takes one or two, not 3",
    "preferences --agents ./nothing": "'./nothing'",
    "preferences --reward sentimint": "did you mean 'sentiment'",
    "preferences --prompts nothing.txt": "'nothing.txt' is not a file",
    "reward-model --preferences nothing.jsonl": "'nothing.jsonl' is not a file",
    "reward-model --preferences few.jsonl": "leaves 0 to measure the accuracy",
    "reward-model --preferences few.jsonl --n-epochs 0": "n_epochs=0 must be",
    "reward-model --preferences few.jsonl --output full": "is not empty",
    "reward-model --preferences few.jsonl --eval-preferences few.jsonl": "eval_preferences has 1",
    "reward-model --preferences few.jsonl --eval-preferences bad.jsonl": "no column 'rejected'",
    "reward-model --preferences long.jsonl": "line 1, has a text of",
    "reward-model --preferences bad.jsonl": "line 1, has no column 'rejected'",
    "duel bundled": "at least two agents",
    "duel bundled bundled --judge sentimint": "did you mean 'sentiment'",
    "duel bundled ./nothing": "'./nothing'",
    "duel bundled untouched": "name a model instead",
    "duel bundled bundled --pairs 0": "--pairs 0 must be",
    "duel bundled bundled --device gpu": "device='gpu' is unknown",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_refused_in_one_sentence(line, printed, tmp_path):
    (tmp_path / "few.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n')
    long = '{"prompt": "a", "chosen": "b", "rejected": "' + "c " * 300 + '"}\n'
    (tmp_path / "long.jsonl").write_text(long)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ending:
        printed(line)
    message = str(ending.value.code)
    assert REFUSED[line] in message and "\n" not in message
    assert sorted(tmp_path.rglob("*")) == before
