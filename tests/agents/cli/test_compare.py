"""``compare``: a table of algorithms, a plot, and no run twice."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pandas as pd
import pytest

from agents.cli import compare_command, main
from agents.runs import RunFolder
from agents.runs.names import parse_candidate
from agents.runs.suites import SUITES


@pytest.fixture
def options(small, tmp_path):
    return ["compare", *small, "--seeds", "2", "--output", str(tmp_path)]


def test_compare_trains_each_and_draws(options, printed, tmp_path):
    text = printed(*options, "--agents", "ppo", "grpo")
    assert "Games-Howell" in text
    assert (tmp_path / "comparison.png").stat().st_size > 5_000
    for name in ("ppo", "grpo"):
        runs = [tmp_path / f"{name}-{seed}" for seed in (0, 1)]
        assert all((run / "agent" / "agent.json").is_file() for run in runs)
        summaries = [json.loads((run / "evaluation.json").read_text())["after"] for run in runs]
        mean = sum(one["score"]["mean"] - 0.1 * one["kl"]["mean"] for one in summaries) / 2
        (row,) = [line.split() for line in text.splitlines() if line.startswith(f"{name} ")]
        assert float(row[1]) == pytest.approx(mean, abs=6e-4)
        assert summaries[0] != summaries[1]
    # All answer the same prompts, and every seed draws texts of its own, also those of before.
    before = [
        pd.read_json(tmp_path / f"{name}-{seed}" / "episodes_before.jsonl", lines=True)
        for name in ("ppo", "grpo") for seed in (0, 1)
    ]  # fmt: skip
    assert all(table["prompt"].equals(before[0]["prompt"]) for table in before)
    responses = [tuple(table["response"]) for table in before]
    assert responses[0] == responses[2] != responses[1] == responses[3]
    lines = text[: text.index("\nreturn =")].splitlines()
    first = next(i for i, line in enumerate(lines) if line.split()[:2] == ["return", "share"])
    rows = [re.split(" {2,}", line.strip()) for line in lines[first + 1 :]]
    assert {row[0] for row in rows} == {
        "ppo", "grpo", "untouched", "best of 4", "best of 16", "optimum"
    }  # fmt: skip
    returns = [float(row[1].split()[0]) for row in rows]
    assert returns == sorted(returns, reverse=True)
    assert "…" not in text  # it fits into 80 columns


def test_compare_repeats_no_run_and_mixes_no_settings(options, small, tmp_path):
    options = [*options, "--agents", "reinforce"]
    main(options)
    evaluation = tmp_path / "reinforce-0" / "evaluation.json"
    first = evaluation.stat().st_mtime_ns
    main(options)
    assert evaluation.stat().st_mtime_ns == first
    with pytest.raises(SystemExit, match=r"has reward='length\(3\)', not 'length\(5\)'"):
        main([*options, "--reward", "length(5)"])
    assert evaluation.stat().st_mtime_ns == first
    main([*options, "--reward", "length(5)", "--overwrite"])
    assert evaluation.stat().st_mtime_ns > first


def test_trpo_of_sb3_contrib_gets_attention_with_second_derivatives(options, printed):
    text = printed(*options, "--agents", "sb3_contrib:TRPO(n_steps=4, cg_max_steps=2)")
    assert "sb3_contrib:TRPO" in text[text.index("share") :]


def test_what_does_not_fit_a_later_task_is_refused_before_the_first_run(tmp_path):
    options = ["--env", "LastWord-v0", "Duet-v0", "--agents", "reinforce", "lookahead"]
    with pytest.raises(SystemExit, match="Lookahead knows the next state only where"):
        main(["compare", *options, "--output", str(tmp_path / "runs")])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("candidate", "why"),
    [("sb3:PPO(n_steps=0)", "n_steps=0"), ("sb3:PPO(clip_range='x')", "a float or a callable")],
)
def test_what_stable_baselines3_refuses_is_refused_before_the_first_run(
    candidate, why, options, tmp_path
):
    with pytest.raises(SystemExit, match=f"PPO of stable-baselines3: .*{why}"):
        main([*options, "--agents", "untouched", candidate])
    assert not list(tmp_path.iterdir())


def test_what_is_refused_replaces_nothing(options, tmp_path):
    main([*options, "--agents", "untouched"])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(SystemExit, match=r"PPO of stable-baselines3: .*n_steps=0"):
        main([*options, "--agents", "untouched", "sb3:PPO(n_steps=0)", "--overwrite"])
    assert before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}.items()


def test_env_without_a_value_is_refused(options):
    with pytest.raises(SystemExit, match="--env needs the ids of environments"):
        main([*options, "--env"])


def test_everything_that_acts_can_be_compared(options, printed, tmp_path, monkeypatch):
    """Hyper-parameters, algorithms of others, own classes, and what needs no training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.py").write_text("from agents import PPO\n\nclass Mine(PPO):\n    pass\n")
    names = [
        "ppo", "ppo(n_epochs=2, learning_rate=0.01)", "own:Mine",
        "sb3:PPO(n_steps=4, n_epochs=1)", "untouched", "greedy", "random", "best-of-2",
    ]  # fmt: skip
    text = printed(*options, "--agents", *names)
    table = text[text.index("share") : text.index("\nreturn =")]
    shown = " ".join(table.split())
    for name in (
        "ppo",
        "own:Mine",
        "untouched",
        "greedy",
        "random",
        "best-of-2",
        "optimum",
    ):
        assert f" {name} " in shown
    frame = pd.read_csv(tmp_path / "runs.csv")
    assert sorted(frame["candidate"].unique()) == sorted(names) and len(frame) == 16
    by_name = frame.set_index(["candidate", "seed"])
    plain, other, own = (by_name.loc[(name, 0)] for name in names[:3])
    assert plain["return"] == own["return"] != other["return"]
    assert by_name.loc[("sb3:PPO(n_steps=4, n_epochs=1)", 1)]["timesteps"] >= 100
    assert (by_name.loc["untouched"]["timesteps"] == 0).all()
    assert by_name.loc["untouched"]["kl"].abs().max() < 1e-5 < by_name.loc["random"]["kl"].min()
    assert by_name.loc["untouched"]["return"].nunique() == 2  # seeds are other draws
    assert by_name.loc["greedy"]["return"].nunique() == 1
    tokens = by_name["tokens_per_answer"] / by_name["length"]
    assert tokens.loc["best-of-2"].min() > 1.5 and tokens.loc["ppo"].max() == pytest.approx(1)
    settings = json.loads(
        (tmp_path / "ppo-n_epochs=2-learning_rate=0.01-0/settings.json").read_text()
    )
    assert settings["chosen"]["n_epochs"] == 2 and settings["chosen"]["learning_rate"] == 0.01
    episodes = pd.read_parquet(tmp_path / "episodes.parquet")
    assert len(episodes) == 16 * 8
    prompts = episodes.groupby(["candidate", "seed"])["prompt"].apply(tuple)
    assert prompts.nunique() == 1  # all of them answer the same prompts
    summary = json.loads((tmp_path / "comparison.json").read_text())["summary"]
    assert {row["candidate"] for row in summary} == set(names)
    means = frame.groupby("candidate")["return"].mean()
    assert all(row["return"] == pytest.approx(means[row["candidate"]]) for row in summary)
    before = (tmp_path / "greedy-0" / "evaluation.json").stat().st_mtime_ns
    assert printed(*options, "--agents", "untouched", "greedy").count("run 1 of") == 0
    assert (tmp_path / "greedy-0" / "evaluation.json").stat().st_mtime_ns == before


def test_several_tasks_have_tables_of_their_own(small, printed, tmp_path):
    at = small.index("--prompts")
    text = printed(
        "compare", *small[:at], *small[at + 2 :], "--env", "TextGen-v0", "Sentiment-v0", "--seeds",
        "2", "--agents", "reinforce", "untouched", "--output", str(tmp_path),
    )  # fmt: skip
    assert "TextGen-v0" in text and "Sentiment-v0" in text
    frame = pd.read_csv(tmp_path / "runs.csv")
    assert frame.groupby("task").size().to_dict() == {"Sentiment-v0": 4, "TextGen-v0": 4}
    assert (tmp_path / "Sentiment-v0" / "reinforce-1" / "evaluation.json").is_file()
    assert (tmp_path / "comparison-Sentiment-v0.png").is_file()
    assert "all 2 tasks" in text and (tmp_path / "tasks.png").is_file()
    found = pd.read_csv(tmp_path / "aggregates.csv").set_index("candidate")
    shares = pd.read_csv(tmp_path / "summary.csv").set_index(["candidate", "task"])["share"]
    for name in ("reinforce", "untouched"):
        for task in ("TextGen-v0", "Sentiment-v0"):
            assert found.loc[name, task] == pytest.approx(shares[name, task])
    assert found.loc["reinforce", "above untouched"] + found.loc[
        "untouched", "above reinforce"
    ] == pytest.approx(1)


@pytest.mark.parametrize(("name", "model"), [("small", "bundled"), ("real", "smollm2")])
def test_a_suite_has_tasks_with_budgets(options, name, model):
    tasks = compare_command._tasks(["--suite", name])
    budgets = {task.env[0]: task.total_timesteps for task in tasks}
    assert budgets == SUITES[name].tasks and len(budgets) > 3
    assert all(task.seeds == 3 and task.eval_prompts == "(held out)" for task in tasks)
    assert {task.model for task in tasks} == {model}
    for label in tasks[0].agents:  # each can be made in each task
        candidate = parse_candidate(label)
        for task in tasks:
            compare_command._job(task, candidate, 0, Path("none"))


def test_options_replace_those_of_a_suite(options):
    (*_, last) = compare_command._tasks(["--suite", "small", "--total-timesteps", "7"])
    assert last.total_timesteps == 7
    (first, *_) = compare_command._tasks(["--suite", "real", "--agents", "ppo", "--seeds", "2"])
    assert first.agents == ["ppo"] and first.seeds == 2 and first.model == "smollm2"
    with pytest.raises(SystemExit, match="--suite and --env are two ways"):
        main([*options, "--suite", "small", "--env", "Duet-v0"])


def test_processes_share_the_runs(options, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder, jobs in ((alone, "1"), (shared, "2")):
        main([*options[:-1], str(folder), "--agents", "reinforce", "untouched", "--jobs", jobs])
    one, other = (pd.read_csv(folder / "runs.csv") for folder in (alone, shared))
    assert one["candidate"].tolist() == other["candidate"].tolist()
    assert one["return"].tolist() == pytest.approx(other["return"].tolist(), abs=1e-4)


def test_a_run_of_another_process_is_waited_for(options, printed, tmp_path):
    other = RunFolder.create(tmp_path / "untouched-0")
    threading.Timer(2.0, other.unlock).start()
    text = printed(*options, "--agents", "untouched")
    waiting = text.index("waiting for another process, which makes 1 of the runs")
    assert text.index("run 2 of 2") < waiting < text.index("run 1 of 2")
    assert pd.read_csv(tmp_path / "runs.csv")["seed"].tolist() == [0, 1]


def test_seeds_are_added_until_the_intervals_are_narrow(options, printed, tmp_path):
    printed(*options, "--agents", "untouched", "--until-decided", "1e-9", "--max-seeds", "4")
    assert pd.read_csv(tmp_path / "runs.csv")["seed"].tolist() == [0, 1, 2, 3]
    printed(*options, "--agents", "greedy", "--until-decided", "1e-9", "--max-seeds", "4")
    assert pd.read_csv(tmp_path / "runs.csv")["seed"].tolist() == [0, 1]  # it does not vary


def test_further_seeds_replace_older_runs_if_these_are_to_be_replaced(options, printed, tmp_path):
    options = [*options, "--agents", "untouched", "--until-decided", "1e-9", "--max-seeds", "3"]
    printed(*options)
    printed(*options, "--reward", "length(5)", "--overwrite")
    for seed in range(3):
        settings = json.loads((tmp_path / f"untouched-{seed}" / "settings.json").read_text())
        assert settings["options"]["reward"] == "length(5)"


def test_nothing_is_kept_that_is_not_wanted(options, printed, tmp_path):
    text = printed(*options, "--agents", "ppo", "untouched", "--no-save")
    assert "Games-Howell" in text and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--agents", "dqn"], "The candidate dqn is unknown: use one of grpo, ppo"),
        (["--agents", "ppo", "--seeds", "1"], "--seeds 1 must be a whole number of at least 2"),
        (
            ["--agents", "ppo(n_epoch=2)"],
            "The candidate ppo has no hyper-parameter n_epoch; it has .*n_epochs",
        ),
        (["--agents", "ppo(n_epochs=0)"], "n_epochs=0 must be a whole number of at least 1"),
        (["--agents", "ppo(2)"], "cannot be read: hyper-parameters are name=value"),
        (["--agents", "ppo(n_epochs=two)"], "cannot be read: hyper-parameters are name=value"),
        (["--agents", "ppo(n_epochs=2"], "cannot be read"),
        (["--agents", "untouched(n=2)"], "untouched is not trained"),
        (["--agents", "best-of-0"], "n=0 must be a whole number, at least 1"),
        (["--agents", "ppo", "ppo"], "--agents names 'ppo' and 'ppo'"),
        (["--agents", "nowhere:Agent"], "agent='nowhere:Agent' cannot be imported"),
        (["--agents", "sb3:DQN"], "neither derived from agents.Agent nor an algorithm of"),
        (["--agents", "sb3:PPO(n_epoch=2)"], "sb3:PPO has no hyper-parameter n_epoch"),
        (["--agents", "sb3:PPO(seed=3)"], "sb3:PPO has no hyper-parameter seed"),
        (["--agents", "ppo(env='CartPole-v1')"], "ppo has no hyper-parameter env"),
        (["--agents", "sb3_contrib:MaskablePPO"], "needs a policy of its own"),
        (["--agents", "ppo", "--env", "TextGen-v0", "Nothing-v0"], "env='Nothing-v0' cannot"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(arguments, sentence, options, tmp_path):
    with pytest.raises(SystemExit, match=sentence):
        main([*options, *arguments])
    assert list(tmp_path.iterdir()) == []


def test_what_was_to_be_replaced_is_never_mixed_in(options, printed, tmp_path, monkeypatch):
    options = [*options, "--agents", "untouched", "greedy"]
    printed(*options)
    before = (tmp_path / "greedy-1" / "evaluation.json").stat().st_mtime_ns

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises((SystemExit, KeyboardInterrupt)):
        patch.setattr("agents.cli.compare_command._measure", interrupted)
        main([*options, "--overwrite"])
    text = printed(*options)
    assert text.count("evaluating") == 4
    assert (tmp_path / "greedy-1" / "evaluation.json").stat().st_mtime_ns > before


def test_a_task_that_is_named_twice_counts_once(options, printed, tmp_path):
    env = ["--env", "TextGen-v0", "TextGen-v0"]
    printed(*options, "--agents", "untouched", "sb3:PPO(n_steps=4)", *env, "--n-envs", "16")
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 4
    settings = json.loads((tmp_path / "sb3-PPO-n_steps=4-0" / "settings.json").read_text())
    assert settings["options"]["n_envs"] == 16
    with pytest.raises(SystemExit, match="which cannot go on after a break"):
        main(["train", "--resume", str(tmp_path / "untouched-0")])
