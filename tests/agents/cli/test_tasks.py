"""``train --env``: tasks with prompts, a reward and a budget of their own, and held-out prompts."""

from __future__ import annotations

import json

import gymnasium as gym
import pytest

from agents.cli import main
from agents.cli.tasks import HELD_OUT, OF_TASK, defaults_of, evaluation_prompts
from textenv import TASKS

SMALL = "--total-timesteps 40 --n-envs 4 --eval-episodes 8 --reference-episodes 0".split()


def always_half(prompt: str, response: str) -> float:
    return 0.5


@pytest.fixture
def mine():
    gym.register(
        "Mine-v0", entry_point="textenv:TextGenEnv", vector_entry_point="textenv:TextGenVectorEnv",
        kwargs={"reward": always_half, "prompts": [{"prompt": "One"}], "max_new_tokens": 3},
    )  # fmt: skip
    yield "Mine-v0"
    del gym.registry["Mine-v0"]


def test_a_task_is_learned_on_its_prompts_and_judged_on_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["train", "--env", "Sentiment-v0", "--output", "run", *SMALL])
    held_out = {row["prompt"] for row in TASKS["Sentiment-v0"].held_out}
    for name, judged in (("episodes_after", True), ("completions", False)):
        rows = [json.loads(line) for line in open(f"run/{name}.jsonl")]
        assert rows and all((row["prompt"] in held_out) == judged for row in rows)
    table = capsys.readouterr().out
    main(["evaluate", "run", "--reference-episodes", "0"])
    again = capsys.readouterr().out
    (score,) = (line.split()[-3:] for line in again.splitlines() if line.startswith("score "))
    assert " ".join(score) in table  # the same episodes, by the same agent
    main(["train", "--resume", "run", "--total-timesteps", "80"])


def test_options_take_precedence_over_the_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["train", "--env", "Sentiment-v0", "--max-new-tokens", "2", "--reward", "length(1)",
          "--output", "run", *SMALL])  # fmt: skip
    rows = [json.loads(line) for line in open("run/episodes_after.jsonl")]
    assert max(row["length"] for row in rows) <= 2
    assert json.load(open("run/settings.json"))["options"]["reward"] == "length(1)"


def test_an_environment_of_ones_own_keeps_its_function(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert defaults_of(mine) == {"reward": OF_TASK, "prompts": OF_TASK, "max_new_tokens": 3}
    main(["train", "--env", mine, "--output", "run", *SMALL])
    rows = [json.loads(line) for line in open("run/episodes_after.jsonl")]
    assert {row["prompt"] for row in rows} == {"One"} and {row["score"] for row in rows} == {0.5}


def test_defaults_of_registered_tasks():
    assert defaults_of("TextGen-v0") == {}
    assert defaults_of("Haiku-v0") == {
        "reward": "haiku", "prompts": OF_TASK, "max_new_tokens": 40, "chat": True,
        "eval_prompts": HELD_OUT,
    }  # fmt: skip
    assert evaluation_prompts(HELD_OUT, "Haiku-v0") == TASKS["Haiku-v0"].held_out
    assert evaluation_prompts("mine.txt", "Haiku-v0") == "mine.txt"
    assert evaluation_prompts(None, "TextGen-v0") is None


@pytest.mark.parametrize("env", ["CartPole-v1", "Nope-v0", "nomodule:X-v0", "Haiku-v0"])
def test_what_is_no_task_here_is_refused(env, tmp_path, monkeypatch):
    """The bundled model has no chat template, which Haiku-v0 needs."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ending:
        main(["train", "--env", env, *SMALL])
    message = str(ending.value.code)
    assert "\n" not in message and ("chat template" if env == "Haiku-v0" else env) in message
    assert not list(tmp_path.iterdir())
