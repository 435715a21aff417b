"""A run goes on with what it began with: its files have fingerprints in its settings."""

from __future__ import annotations

import json
import os
import sys

import pytest

import agents
from agents.runs import fingerprints
from agents.runs.fingerprints import fingerprint


@pytest.fixture
def started(tmp_path, monkeypatch, save_model):
    """A short run whose model, prompts and reward are files; what it was made from, by option."""
    monkeypatch.syspath_prepend(tmp_path)
    files = {
        "model": tmp_path / "model", "prompts": tmp_path / "prompts.txt",
        "eval_prompts": tmp_path / "held_out.jsonl", "reward": tmp_path / "reward_of_run.py",
    }  # fmt: skip
    save_model(files["model"])
    files["prompts"].write_text("a b\nc\n")
    files["eval_prompts"].write_text('{"prompt": "b"}\n')
    files["reward"].write_text("def score(response):\n    return len(response)\n")
    named = {name: str(path) for name, path in files.items()} | {"reward": "reward_of_run:score"}
    agents.train(
        "reinforce", folder=tmp_path / "run", total_timesteps=8, n_envs=2, max_new_tokens=4,
        eval_episodes=2, reference_episodes=0, device="cpu", **named,
    )  # fmt: skip
    yield files
    sys.modules.pop("reward_of_run", None)


def go_on(tmp_path, **settings):
    return agents.train(
        folder=tmp_path / "run", resume=True, total_timesteps=16, reward="reward_of_run:score",
        **settings,
    )  # fmt: skip


def test_a_run_goes_on_with_the_files_it_began_with(started, tmp_path):
    for path in started.values():
        os.utime(path, (1, 1))  # a copy is another file of the same content
    assert go_on(tmp_path).agent.num_timesteps >= 16


CHANGES = {
    "model": lambda path: (path / "config.json").write_text(
        (path / "config.json").read_text().replace("}", " }", 1)
    ),
    "prompts": lambda path: path.write_text("a b\nd\n"),
    "eval_prompts": lambda path: path.write_text('{"prompt": "c"}\n'),
    "reward": lambda path: path.write_text("def score(response):\n    return -len(response)\n"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_files_are_refused(name, started, tmp_path):
    CHANGES[name](started[name])
    with pytest.raises(ValueError, match=rf"began with other content of {name}=.*put back"):
        go_on(tmp_path)
    if name == "reward":  # an error in it was mended
        assert go_on(tmp_path, accept_changes=True).agent.num_timesteps >= 16


def test_a_run_of_an_earlier_release_has_no_fingerprints(started, tmp_path):
    file = tmp_path / "run/settings.json"
    settings = json.loads(file.read_text())
    del settings["made_from"]
    file.write_text(json.dumps(settings))
    CHANGES["prompts"](started["prompts"])
    assert go_on(tmp_path).agent.num_timesteps >= 16


def test_what_has_a_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "WHOLE", 1000)
    monkeypatch.setattr(fingerprints, "PIECE", 100)
    file = tmp_path / "weights.bin"
    file.write_bytes(bytes(50_000))
    first = fingerprint(file)
    assert fingerprint(str(file)) == first
    file.write_bytes(bytes(49_999) + b"1")
    assert fingerprint(file) != first
    assert fingerprint({str(file): 1.0, "length": 0.5}) != fingerprint(["length"])
    for other in ("sentiment", "length(20)", "owner/model", "no_such:thing", None, len, 3):
        assert fingerprint(other) is None


def test_code_that_a_file_names_is_not_looked_for(tmp_path, monkeypatch):
    """Python would import the package around it: only the reward, which is named again, may be."""
    package = tmp_path / "package_of_a_file"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "inner.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert fingerprint("package_of_a_file.inner:name") is None
    with pytest.raises(SystemExit):
        fingerprint("package_of_a_file.inner:name", may_be_code=True)
