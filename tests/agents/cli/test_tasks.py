"""``train --env``: tasks with prompts, a reward and a budget of their own, and held-out prompts."""

from __future__ import annotations

import json
import re
import sys

import gymnasium as gym
import pytest

from agents.cli import main
from agents.cli.sources import open_candidates
from agents.evaluation.optimum import Attainable
from agents.runs.options import HELD_OUT, OF_TASK, complete, defaults_of, evaluation_prompts
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
    for wanted in (True, False):
        for agent in open_candidates(["run", "bundled"], {}, "cpu", held_out=wanted):
            own = agent.env.unwrapped
            assert own.spec.id == "Sentiment-v0"
            assert all((prompt.text in held_out) == wanted for prompt in own.prompts)
    main(["duel", "run", "bundled", "--pairs", "8"])
    main(["preferences", "--agents", "run", "--pairs", "8", "--output", "p.jsonl"])
    assert not prompts_of("p.jsonl") & held_out
    main(["train", "--resume", "run", "--total-timesteps", "80"])


@pytest.mark.parametrize(
    ("stop", "option"),
    [("!", ["!"]), (("!", "\n"), ["!", "\n"]), (["!"], ["!"]), (None, []), (5, [OF_TASK]),
     (("!", 5), [OF_TASK])],
)  # fmt: skip
def test_stops_of_a_registered_environment_are_defaults(mine, stop, option):
    gym.registry[mine].kwargs["stop"] = stop
    assert complete({"env": mine})[0].stop == option


def test_stops_that_no_option_can_say_are_left_to_the_environment(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gym.registry[mine].kwargs["stop"] = ("!", 5)
    main(["train", "--env", mine, "--agent", "reinforce", "--output", "run", *SMALL])
    assert json.load(open("run/settings.json"))["options"]["stop"] == [OF_TASK]


def prompts_of(file):
    return {json.loads(line)["prompt"] for line in open(file)}


def test_compare_takes_a_task(tmp_path, monkeypatch, capsys):
    """The algorithms learn on the task's prompts and are judged, like the optimum, on held-out."""
    monkeypatch.chdir(tmp_path)
    small = "--total-timesteps 40 --n-envs 4 --eval-episodes 8 --reference-episodes 64".split()
    main(["compare", "--env", "Sentiment-v0", "--agents", "reinforce", "--seeds", "2",
          "--max-new-tokens", "6", *small])  # fmt: skip
    held_out = {row["prompt"] for row in TASKS["Sentiment-v0"].held_out}
    for seed in range(2):
        run = tmp_path / "runs" / "compare" / f"reinforce-{seed}"
        assert prompts_of(run / "episodes_after.jsonl") <= held_out
        assert not prompts_of(run / "completions.jsonl") & held_out
        options = json.load(open(run / "settings.json"))["options"]
        assert (options["env"], options["max_new_tokens"]) == ("Sentiment-v0", 6)
    assert "optimum" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="env='Nope-v0' cannot be made"):
        main(["compare", "--env", "Nope-v0"])
    with pytest.raises(SystemExit, match="chat template"):  # of LetterCount-v0
        main(["compare", "--env", "LetterCount-v0", "--agents", "ppo", "--output", "chat", *small])
    assert not (tmp_path / "chat").exists()


def test_learning_is_compared_with_the_optimum_of_its_own_prompts(tmp_path, monkeypatch, capsys):
    """Nothing can be gained with the held-out prompts, of which each response scores 0."""
    monkeypatch.chdir(tmp_path)
    own = [{"prompt": opening, "answer": "is good"} for opening in ("The film", "The cast")]
    for name, rows in {"own": own, "held_out": [{"prompt": "A", "answer": "0"}]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "mine.py").write_text(
        "def reward(episodes):\n"
        "    return [float(e.data['answer'] != '0') * len(e.response) for e in episodes]\n"
    )
    small = "--total-timesteps 40 --n-envs 4 --eval-episodes 8 --reference-episodes 64".split()
    main(["train", "--prompts", "own.jsonl", "--eval-prompts", "held_out.jsonl", "--reward",
          "mine:reward", "--output", "run", *small])  # fmt: skip
    of = {
        name: Attainable.load(tmp_path / "run" / f"{name}reference_scores.json").optimum.value
        for name in ("", "learning_")
    }
    assert of[""] == pytest.approx(0) and of["learning_"] > 1
    printed = capsys.readouterr().out
    (goal,) = set(re.findall(r"return \S+ of (\S+)", printed))
    assert float(goal) == pytest.approx(of["learning_"], abs=0.006)


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
        "eval_prompts": HELD_OUT, "kl_coef": 0.02,
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
