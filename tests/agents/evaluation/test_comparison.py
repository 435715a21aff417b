"""`agents.compare` and its tables: the right numbers in the right rows."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import stable_baselines3 as sb3
import torch

import agents
from agents import GRPO, PPO, REINFORCE, BestOfN, RandomTokens, Untouched, compare
from agents.evaluation import Returns, TextEvaluation
from agents.evaluation.comparison import Comparison, Run
from agents.evaluation.statistics import all_differences, interval, paired_difference
from agents.training import presets
from textenv import TASKS


def evaluation(scores, kls) -> TextEvaluation:
    """Three-token answers with these scores and KL, at β = 0.1."""
    scores, kls = np.array(scores, float), np.array(kls, float)
    count = len(scores)
    return TextEvaluation(
        scores, scores, kls, kls, np.full(count, 3), [f"p{i}" for i in range(count)],
        ["a b c"] * count, 1.0, 0.1, 3 * count,
    )  # fmt: skip


@pytest.fixture
def found() -> Comparison:
    """Two candidates, three seeds, two episodes each; the second one is worse by 1, 2 and 3."""
    entries = []
    for seed in range(3):
        entries += [
            Run("T", "good", seed, evaluation([seed + 1, seed + 2], [10, 10]), 100, 5.0),
            Run("T", "bad", seed, evaluation([0, 1], [10 + 10 * k for k in (seed, seed)]), 100),
        ]
    return Comparison(entries)


def test_each_run_is_a_row_with_the_means_of_its_episodes(found):
    table = found.runs.set_index(["candidate", "seed"])
    assert len(table) == 6
    row = table.loc[("bad", 2)]
    assert row["score"] == 0.5 and row["kl"] == 30 and row["return"] == pytest.approx(-2.5)
    assert row["tokens_per_answer"] == row["length"] == 3 and row["timesteps"] == 100
    assert len(found.episodes) == 12
    one = found.episodes.query("candidate == 'good' and seed == 1 and episode == 1").iloc[0]
    assert one["return"] == 2 and one["prompt"] == "p1" and one["response"] == "a b c"


def test_the_summary_has_intervals_over_seeds(found):
    summary = found.summary()
    assert summary["candidate"].tolist() == ["good", "bad"]
    good = summary.iloc[0]
    wanted = interval([0.5, 1.5, 2.5])
    numbers = good["return"], good["return_low"], good["return_high"]
    assert numbers == pytest.approx((wanted.mean, wanted.low, wanted.high))
    assert good["seeds"] == 3 and math.isnan(good["share"]) and good["interquartile_mean"] == 1.5


def test_differences_are_those_of_all_pairs_and_of_pairs_of_runs(found):
    (only,) = found.differences["T"]
    (wanted,) = all_differences({"good": [0.5, 1.5, 2.5], "bad": [-0.5, -1.5, -2.5]})
    assert only == wanted
    row = found.difference_table().iloc[0]
    assert (row["better"], row["worse"], row["difference"]) == ("good", "bad", 3)
    assert row["probability_of_improvement"] == pytest.approx(17 / 18, abs=0.06)
    over_seeds = found.difference("good", "bad")
    assert over_seeds == paired_difference([0.5, 1.5, 2.5], [-0.5, -1.5, -2.5])
    over_prompts = found.difference("good", "bad", over="prompts")
    assert over_prompts == paired_difference([1.0, 2.0], [-2.0, -1.0])
    with pytest.raises(ValueError, match="There is no candidate 'ugly' in T: use one of good, bad"):
        found.difference("good", "ugly")
    with pytest.raises(ValueError, match="over='rows' must be"):
        found.difference("good", "bad", over="rows")
    apart = Comparison([*found.entries, Run("T", "late", 9, found.entries[0].evaluation)])
    with pytest.raises(ValueError, match="'late' and 'bad' have no seed in common"):
        apart.difference("late", "bad")
    two = Comparison([*found.entries, Run("U", "good", 0, found.entries[0].evaluation)])
    with pytest.raises(ValueError, match="task= must be one of T, U"):
        two.difference("good", "bad")


def test_unknown_returns_and_single_seeds_are_no_reason_to_stop(found, tmp_path):
    entries = [
        *found.entries,
        Run("T", "foreign", 0, evaluation([1, 1], [np.nan] * 2)),
        Run("T", "foreign", 1, evaluation([1, 1], [np.nan] * 2)),
        Run("T", "single", 0, evaluation([1, 1], [1, 1])),
    ]
    more = Comparison(entries)
    assert len(more.differences["T"]) == 1
    summary = more.summary().set_index("candidate")
    assert math.isnan(summary.loc["foreign", "return"]) and summary.loc["foreign", "score"] == 1
    assert summary.loc["single", "return_high"] == math.inf
    json.loads((more.save(tmp_path) / "comparison.json").read_text())


def test_what_is_written_can_be_read(found, tmp_path):
    folder = found.save(tmp_path / "new" / "folder")
    pd.testing.assert_frame_equal(pd.read_csv(folder / "runs.csv"), found.runs)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "episodes.parquet"), found.episodes)
    content = json.loads((folder / "comparison.json").read_text())
    assert [row["candidate"] for row in content["summary"]] == ["good", "bad"]
    assert len(content["runs"]) == 6 and len(content["differences"]) == 1


def test_classes_their_variants_and_others_learn_and_are_judged_alike(model_folder):
    task = {
        "tokenizer": model_folder, "reference": model_folder, "kl_coef": 0.1,
        "prompts": ["a b", "c"], "reward": "length(3)", "max_new_tokens": 5,
    }  # fmt: skip
    said = []
    found = compare(
        {
            "PPO": (PPO, {"n_envs": 8}),
            "GRPO": (GRPO, {"n_envs": 8, "group_size": 4, "learning_rate": 0.01}),
            "made": lambda seed: PPO(
                "CausalLMPolicy", "TextGen-v0", n_envs=8, seed=seed, env_kwargs=task,
                policy_kwargs={"model": model_folder}, device="cpu",
            ),
            "untouched": Untouched(),
            "best of 3": BestOfN(3),
        },
        seeds=[3, 4], total_timesteps=60, eval_episodes=16, env_kwargs=task, device="cpu",
        report=said.append,
    )  # fmt: skip
    assert said[:2] == [
        "seeing that each candidate can be made",
        "run 1 of 10: PPO on TextGen-v0, seed 3",
    ]
    assert len(said) == 11
    runs = found.runs.set_index(["candidate", "seed"])
    assert runs.loc["PPO"]["return"].tolist() == runs.loc["made"]["return"].tolist()
    assert (
        runs.loc["GRPO"]["timesteps"].min() >= 60 == runs.loc["untouched"]["timesteps"].max() + 60
    )
    assert runs.loc["untouched"]["return"].nunique() == 2
    prompts = found.episodes.groupby(["candidate", "seed"])["prompt"].apply(tuple)
    assert prompts.nunique() == 1


def test_other_environments_are_compared_by_their_returns():
    found = compare(
        {
            "PPO": (PPO, {"n_envs": 2, "n_steps": 32}),
            "SB3": lambda seed: sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64, seed=seed),
            "right": lambda seed: lambda rows: np.ones(len(rows), int),
        },
        "CartPole-v1", seeds=2, total_timesteps=128, eval_episodes=5, device="cpu",
        report=lambda _: None,
    )  # fmt: skip
    assert set(found.summary()["candidate"]) == {"PPO", "SB3", "right"}
    assert isinstance(found.entries[0].evaluation, Returns)
    assert found.runs.set_index("candidate").loc["right"]["return"].max() < 12
    assert "score" not in found.runs


def test_each_task_of_a_suite_has_its_own_timesteps_and_held_out_prompts():
    quiet = {"seeds": 2, "eval_episodes": 4, "reference_episodes": 16, "report": lambda _: None}
    shaped = {"reference": "bundled", "kl_coef": 0.1}
    tasks = {"Sentiment-v0": 40, "FifteenWords-v0": 300}
    assert agents.SUITES["small"].tasks.keys() > tasks.keys()
    found = compare(["reinforce(n_envs=2)"], tasks, prompts="held_out", env_kwargs=shaped, **quiet)
    assert found.tasks == [*tasks]
    least = found.runs.groupby("task")["timesteps"].min()
    assert all(least[name] >= wanted for name, wanted in tasks.items())
    assert found.runs.groupby("task")["timesteps"].max()["Sentiment-v0"] < 100
    for task, episodes in found.episodes.groupby("task"):
        assert {*episodes["prompt"]} <= {row["prompt"] for row in TASKS[task].held_out}
    with pytest.raises(ValueError, match="'CartPole-v1' is none"):
        compare(["random"], "CartPole-v1", prompts="held_out", **quiet)
    with pytest.raises(ValueError, match="total_timesteps=0 must be"):
        compare(["random"], {"Sentiment-v0": 0}, **quiet)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seeds": 2.5}, {"seeds": "12"}, {"seeds": [True]}, {"seeds": -1}, {"env": 3},
        {"env_kwargs": "x"}, {"policy_kwargs": [1]}, {"until_decided": "x"}, {"max_seeds": "2"},
        {"evaluation_seed": -1},
    ],
    ids=repr,
)  # fmt: skip
def test_arguments_of_another_kind_are_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(f'{name}={value!r}')} must be"):
        compare({"PPO": PPO}, **{"env": "CartPole-v1", **wrong}, report=lambda _: None)


def test_what_is_no_candidate_is_named():
    for wrong in (3, sb3.DQN, Untouched, (PPO,), (PPO, 3)):
        with pytest.raises(TypeError, match="cannot be compared"):
            compare({"wrong": wrong}, "CartPole-v1", report=lambda _: None)
    with pytest.raises(TypeError, match=r"candidates must be names.*not \{1: 'ppo'\}"):
        compare({1: "ppo"}, "CartPole-v1", report=lambda _: None)
    for nothing in ({"seeds": 0}, {"env": []}):
        with pytest.raises(ValueError, match="is empty: there is nothing to compare"):
            compare({"PPO": PPO}, **{"env": "CartPole-v1", **nothing}, report=lambda _: None)


def test_a_live_model_is_a_new_one_in_each_run(make_model, text_kwargs):
    """And so are schedules of β; a repeated seed counts once."""
    first = {}

    class Noting(PPO):
        def update(self, rollout):
            weights = self.policy.model.state_dict()
            first.setdefault(id(self), {name: w.clone() for name, w in weights.items()})
            return super().update(rollout)

    task = text_kwargs(reference=make_model(seed=7), kl_coef={"target": 0.1, "horizon": 9})
    settings = {"n_envs": 8, "learning_rate": 0.1}
    found = compare(
        {"A": (Noting, settings), "B": (Noting, settings)}, seeds=[0, 0, 1], total_timesteps=60,
        eval_episodes=8, env_kwargs=task, policy_kwargs={"model": make_model(seed=3)}, device="cpu",
        report=lambda _: None,
    )  # fmt: skip
    assert len(found.entries) == 4 and len(first) == 4
    one, *others = first.values()
    assert all(torch.equal(one[name], other[name]) for other in others for name in one)


# By names


@pytest.fixture
def text_task(model_folder) -> dict:
    return {
        "tokenizer": model_folder, "reference": model_folder, "kl_coef": 0.1,
        "prompts": ["a b", "c"], "reward": "length(3)", "max_new_tokens": 5,
    }  # fmt: skip


def test_names_mean_what_they_mean_on_the_command_line(text_task, tmp_path):
    settings = {
        "seeds": 2, "total_timesteps": 60, "eval_episodes": 8, "env_kwargs": text_task,
        "reference_episodes": 64, "device": "cpu", "report": lambda _: None,
    }  # fmt: skip
    names = ["ppo(n_envs=8)", "sb3:A2C(n_envs=8)", "best-of-3"]
    found = compare(names, folder=tmp_path / "named", **settings)
    runs = found.runs.set_index(["candidate", "seed"])
    given = {"PPO": (PPO, {"n_envs": 8}), "A2C": (sb3.A2C, {"n_envs": 8}), "best": BestOfN(3)}
    again = compare(given, **settings).runs.set_index(["candidate", "seed"])
    for name, other in zip(names, given, strict=True):
        assert runs.loc[name]["return"].tolist() == again.loc[other]["return"].tolist()
    assert runs.loc[names[1]]["kl"].notna().all()
    assert found.summary()["share"].notna().all()
    assert (tmp_path / "named" / "comparison.png").stat().st_size > 5_000
    mine = compare({"mine": names[0]}, **settings | {"reference_episodes": 0}).runs
    assert mine["return"].tolist() == runs.loc[names[0]]["return"].tolist()


def test_the_optimum_is_known_where_nothing_learns(text_task):
    settings = {"seeds": 2, "eval_episodes": 8, "device": "cpu", "report": lambda _: None}
    found = compare(["random"], env_kwargs=text_task, reference_episodes=64, **settings)
    assert found.summary()["share"].notna().all()
    free = {name: value for name, value in text_task.items() if name != "kl_coef"}
    found = compare(["random"], env_kwargs={**free, "kl_coef": 0}, **settings)
    assert found.summary()["share"].isna().all()


def test_a_name_that_is_none_is_refused():
    for wrong, sentence in (
        (["dqn"], "The candidate dqn is unknown: use one of grpo"),
        ({"x": "runs/nowhere"}, "The candidate runs/nowhere is unknown"),
        (["ppo(2)"], "cannot be read"),
        (["pppo"], "did you mean ppo"),
        (["sb3:PPOO"], "did you mean PPO"),
    ):
        with pytest.raises(ValueError, match=sentence):
            compare(wrong, report=lambda _: None)
    for misspelt in ("ppo(n_epoch=2)", "sb3:PPO(n_epoch=2)"):
        with pytest.raises(TypeError, match="Did you mean 'n_epochs'"):
            compare([misspelt], report=lambda _: None)
    with pytest.raises(TypeError, match="candidates must be names"):
        compare([PPO], report=lambda _: None)


def test_it_prints_as_the_command_does(found):
    """One whose tokens differ says so; one without texts has no score."""
    text = repr(found)
    assert "return = score − β·KL" in text and "good over bad" in text and "p0" not in text
    assert "tokens to learn from" not in text
    more = Run("T", "long", 0, evaluation([1, 1], [1, 1]), 250)
    assert "good 100, bad 100, long 250" in repr(Comparison([*found.entries, more]))
    control = Comparison([Run("C", "ppo", seed, Returns(np.array([3.0, 5.0]))) for seed in (0, 1)])
    assert "4.000" in repr(control) and "KL" not in repr(control)


def test_the_same_folder_later_knows_the_optimum_as_well(text_task, tmp_path):
    settings = {
        "seeds": 2, "total_timesteps": 60, "eval_episodes": 8, "env_kwargs": text_task,
        "reference_episodes": 64, "device": "cpu", "folder": tmp_path,
    }  # fmt: skip
    said = []
    first = compare(["reinforce(n_envs=8)", "random"], **settings, report=lambda _: None)
    again = compare(["reinforce(n_envs=8)", "random"], **settings, report=said.append)
    assert said == [] and repr(again) == repr(first) and "optimum" in repr(first)
    pd.testing.assert_frame_equal(again.summary(), first.summary())
    named = {"reinforce(n_envs=8)": (REINFORCE, {"n_envs": 8}), "random": RandomTokens()}
    assert len(compare(named, **settings, report=said.append).runs) == 4 and said == []
    settings_file = tmp_path / "random-TextGen-v0-0" / "settings.json"
    text = settings_file.read_text()
    settings_file.write_text(text.replace('"eval_episodes"', '"n_episodes"'))  # an earlier release
    compare(named, **settings, report=said.append)
    assert said == []
    with pytest.raises(FileExistsError, match=r"eval_episodes=8, not 9: .*\(overwrite=True"):
        compare(named, **settings | {"eval_episodes": 9})


def test_runs_with_the_presets_of_another_release_are_not_mixed_in(
    text_task, tmp_path, monkeypatch
):
    settings = {
        "seeds": 2, "total_timesteps": 60, "eval_episodes": 8, "env_kwargs": text_task,
        "reference_episodes": 0, "device": "cpu", "folder": tmp_path, "report": lambda _: None,
    }  # fmt: skip
    compare(["reinforce(n_envs=8)"], **settings)
    monkeypatch.setitem(presets.SMALL["REINFORCE"], "n_envs", 16)  # which this candidate gives
    compare(["reinforce(n_envs=8)"], **settings)
    monkeypatch.setitem(presets.SMALL["REINFORCE"], "learning_rate", 3e-4)
    with pytest.raises(FileExistsError, match=r"learning_rate=0.0004, not 0.0003"):
        compare(["reinforce(n_envs=8)"], **settings | {"seeds": 3})


def test_names_of_one_folder_are_refused(text_task):
    for names in ({"KL > 1": "random", "KL < 1": "greedy"}, {"?": "random", "!": "greedy"}):
        with pytest.raises(ValueError, match="whose runs would lie in one folder"):
            compare(names, env_kwargs=text_task)


def test_classes_of_sb3_get_the_arguments_that_ours_get(text_task, model_folder, make_model):
    made = []

    class Noting(sb3.A2C):
        def learn(self, *arguments, **keywords):
            made.append(self)
            return super().learn(*arguments, **keywords)

    settings = {
        "seeds": 1, "total_timesteps": 20, "eval_episodes": 4, "reference_episodes": 0,
        "device": "cpu", "report": lambda _: None,
    }  # fmt: skip
    policy = {"model": model_folder, "temperature": 0.5, "critic_layers": 1}
    schedule = {"n_envs": 4, "learning_rate": lambda left: 0.01 * left}
    compare({"a": (Noting, schedule)}, env_kwargs=text_task, policy_kwargs=policy, **settings)
    lm = made[-1].policy.lm
    assert lm.sampling.temperature == 0.5 and lm.critic_body is not None
    assert made[-1].lr_schedule(0.5) == 0.005
    live = make_model()
    weights = {name: weight.clone() for name, weight in live.state_dict().items()}
    task = {**text_task, "reference": model_folder}
    compare(
        {"a": (Noting, {"n_envs": 4})}, env_kwargs=task, policy_kwargs={"model": live}, **settings
    )
    assert all(torch.equal(weight, weights[name]) for name, weight in live.state_dict().items())
    control = {"a": (Noting, {"n_envs": 2, "n_steps": 8})}
    compare(control, "CartPole-v1", policy_kwargs={"net_arch": [4]}, **settings)
    assert made[-1].n_envs == 2 and made[-1].policy.net_arch == [4]


def test_it_prints_itself_in_a_notebook_too(found, monkeypatch):
    plain = repr(found)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert repr(found) == plain and "good over bad" in plain and "\x1b" not in plain


def test_what_was_not_compared_is_not_said_to_be_equal(found):
    alone = Comparison([run for run in found.entries if run.candidate == "good"])
    assert "differ" not in repr(alone)
    control = [Run("C", name, 0, Returns(np.array([3.0, 5.0])), n) for name, n in
               (("a", 100), ("b", 300))]  # fmt: skip
    shown = repr(Comparison(control))
    assert "steps to learn from: a 100, b 300" in shown and "differ" not in shown


def test_added_seeds_are_new_ones():
    found = compare(
        {"mine": (PPO, {"n_envs": 2})}, "CartPole-v1", seeds=np.array([1, 2]), until_decided=1e-9,
        max_seeds=4, total_timesteps=20, eval_episodes=2, device="cpu", report=lambda _: None,
    )  # fmt: skip
    assert found.runs["seed"].tolist() == [1, 2, 0, 3]
    assert found.aggregates().empty  # there is one task
