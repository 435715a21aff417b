"""What makes the command line pleasant: numbers as people write them, guesses at misspelt words."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from agents.cli import main
from agents.cli.parsing import parse_train


@pytest.mark.parametrize(
    ("written", "number"),
    [("1e5", 100_000), ("100k", 100_000), ("0.5M", 500_000), ("2.5e3", 2500), ("70", 70)],
)
@pytest.mark.parametrize("form", ["--total-timesteps {}", "--total-timesteps={}", "--n-envs {}"])
def test_whole_numbers_as_people_write_them(form, written, number):
    options, _ = parse_train(form.format(written).split())
    assert number in (options.total_timesteps, options.n_envs)


def test_hyperparameters_are_read_so_as_well():
    _, hyperparameters = parse_train(["--n-epochs", "1e1", "--learning-rate", "1e-4"])
    assert hyperparameters["n_epochs"] == 10 and hyperparameters["learning_rate"] == 1e-4


@pytest.mark.parametrize("written", ["1.5", "1e-3", "k", "12kk"])
def test_what_is_no_whole_number_is_refused(written, capsys):
    with pytest.raises(SystemExit):
        parse_train(["--total-timesteps", written])
    assert "total-timesteps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], "did you mean train?"),
        (["reward_model"], "did you mean reward-model?"),
        (["train", "--agent", "pppo"], "did you mean 'ppo'?"),
        (["train", "--agent", "Reinforc"], "did you mean 'reinforce'?"),
    ],
)
def test_misspelt_words_are_guessed(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert sentence in str(ended.value.code) + capsys.readouterr().err


def test_the_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out.startswith("textenv 0.")


def test_a_budget_of_few_rollouts_is_said(small, tmp_path, capsys):
    main(["train", *small, "--output", str(tmp_path / "run")])
    said = " ".join(capsys.readouterr().out.split())
    assert "100 tokens are few rollouts, of 8 episodes of up to 5 tokens each" in said


@pytest.mark.parametrize("option", [["--learning-rate", "1e-4"], ["--seed=5"], ["--n-envs", "64"]])
def test_settings_cannot_be_given_to_a_run_that_goes_on(option, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", "runs/some", *option])
    said = str(ended.value.code) + capsys.readouterr().err
    assert f"{option[0].split('=')[0]} cannot be given with --resume" in said


@pytest.mark.parametrize("arguments", ["--help", "evaluate --help"])
def test_nothing_is_said_when_what_reads_the_output_has_ended(arguments):
    command = f"{sys.executable} -m agents {arguments} | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.stderr, done.returncode) == ("", 141)


def test_ctrl_c_before_anything_has_begun(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["compare"])
    assert ended.value.code == 130 and capsys.readouterr().err == "ended by SIGINT\n"
