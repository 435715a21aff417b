"""The command line, run in this process with tiny budgets."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.__main__ import AGENTS, main
from agents.plots import read_progress

SMALL = ["--total-timesteps", "100", "--n-envs", "8", "--eval-episodes", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "ppo"
    main(["train", *SMALL, "--output", str(folder), "--n-epochs", "1", "--kl-coef", "0.1"])
    return folder


def test_train_leaves_agent_logs_and_plot(trained):
    assert (trained / "learning_curve.png").stat().st_size > 5_000
    progress = read_progress(trained / "progress.csv")
    assert progress["time/total_timesteps"][-1] >= 100
    assert {"rollout/score_mean", "rollout/kl", "train/approx_kl", "time/fps"} <= progress.keys()
    assert any(file.name.startswith("events.out.tfevents") for file in trained.iterdir())
    AutoModelForCausalLM.from_pretrained(trained)
    assert len(AutoTokenizer.from_pretrained(trained)) == 1536


def test_train_prints_before_and_after_and_where_things_are(capsys, tmp_path):
    main(["train", *SMALL, "--agent", "reinforce", "--output", str(tmp_path / "run")])
    printed = capsys.readouterr().out
    for line in ("score", "KL to the reference", "recomputed", "length", "distinct-2", "tokens/s"):
        assert line in printed
    assert "before" in printed and "after" in printed and "learning_curve.png" in printed


def test_evaluate_opens_what_train_saved(trained, capsys):
    main(["evaluate", str(trained), "--reference", "bundled", "--episodes", "8"])
    assert "KL to the reference" in capsys.readouterr().out


def test_compare_trains_each_and_draws(tmp_path, capsys):
    main([
        "compare", "--agents", "ppo", "grpo", "--seeds", "2", *SMALL,
        "--output", str(tmp_path),
    ])  # fmt: skip
    printed = capsys.readouterr().out
    assert "significantly apart" in printed and "grpo" in printed
    assert (tmp_path / "comparison.png").stat().st_size > 5_000
    assert (tmp_path / "ppo-1" / "agent.json").is_file()


@pytest.mark.parametrize("name", AGENTS)
def test_help_lists_the_hyper_parameters_of_the_agent(name, capsys):
    with pytest.raises(SystemExit) as ending:
        main(["train", "--agent", name, "--help"])
    assert ending.value.code == 0
    printed = capsys.readouterr().out
    assert "--learning-rate" in printed and "--total-timesteps" in printed
    assert ("--clip-range" in printed) == (name in ("ppo", "grpo"))
    assert ("--group-size" in printed) == (name in ("rloo", "grpo"))


def test_an_unknown_agent_is_refused_with_the_known_ones():
    with pytest.raises(SystemExit, match="--agent dqn is unknown: use one of grpo, ppo"):
        main(["train", "--agent", "dqn"])


def test_an_unknown_command_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit, match="trian is unknown: use train, evaluate or compare"):
        main(["trian"])
    main([])
    printed = capsys.readouterr().out
    assert all(f"- {name}: " in printed for name in ("train", "evaluate", "compare"))


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--prompts", "nofile.txt"], "prompts='nofile.txt' is not a file"),
        (["--reward", "sentimint"], "did you mean 'sentiment'"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_in_one_sentence(options, sentence, tmp_path):
    with pytest.raises(SystemExit, match=sentence):
        main(["train", *SMALL, *options, "--output", str(tmp_path)])


def test_evaluate_says_where_no_agent_is():
    with pytest.raises(SystemExit, match="no agent in 'nowhere'"):
        main(["evaluate", "nowhere"])


def test_compare_repeats_a_run_whose_settings_have_changed(tmp_path):
    options = ["--agents", "reinforce", "--seeds", "2", *SMALL, "--output", str(tmp_path)]
    main(["compare", *options])
    evaluation = tmp_path / "reinforce-0" / "evaluation.json"
    first = evaluation.stat().st_mtime_ns
    main(["compare", *options])
    assert evaluation.stat().st_mtime_ns == first
    main(["compare", *options, "--reward", "length(5)"])
    assert evaluation.stat().st_mtime_ns > first
