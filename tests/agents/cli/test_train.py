"""``train``: what it leaves, what it prints, and that "again" repeats its table."""

from __future__ import annotations

import json
import re
import shlex
import sys

import pandas as pd
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import agents.algorithms
from agents.algorithms import NAMES as AGENTS
from agents.cli import main
from agents.cli.parsing import parse_train

# Of the many that a real run takes.
FEW = {
    "ppo": ["--n-epochs", "1"],
    "trpo": ["--n-critic-updates", "1", "--cg-max-steps", "2"],
    "rloo": ["--group-size", "4"],
    "grpo": ["--group-size", "4"],
}


QUICK = ("ppo", "grpo")  # the others are tried in the slow run


@pytest.mark.parametrize(
    "agent",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in AGENTS],
)
def test_again_repeats_the_table(agent, small, printed, read_table, tmp_path):
    """The table that `train` prints, evaluation.json, and what `evaluate` measures are one."""
    few = [*FEW.get(agent, []), "--learning-rate", "0.01"]
    text = printed("train", *small, "--agent", agent, "--output", str(tmp_path / "run"), *few)
    assert re.search(r"before +after", text) and "learning_curve.png" in text
    table = read_table(text)
    assert all(len(cells) == 2 for cells in table.values())
    summary = json.loads((tmp_path / "run" / "evaluation.json").read_text())["after"]
    for key, digits in (("return", 3), ("score", 3), ("kl", 2), ("length", 1), ("distinct_2", 2)):
        value = summary[key] if key == "distinct_2" else summary[key]["mean"]
        assert table[key][1] == pytest.approx(value, abs=0.51 * 10**-digits), key
    assert table["kl"][0] == 0
    if agent != "trpo":  # whose learning rate is the critic's alone
        assert table["score"][0] != table["score"][1] and table["kl"][1] > 0
    assert table["recomputed"] == pytest.approx(table["kl"], abs=0.011)
    (command,) = re.findall(r"^again +python -m agents (.+)$", text, re.MULTILINE)
    arguments = shlex.split(command)
    assert arguments == ["evaluate", str(tmp_path / "run")]  # it needs no option
    again = read_table(printed(*arguments, "--device", "cpu"))
    assert again == {key: [cells[1]] for key, cells in table.items()}
    reach = read_table(text, reach=True)
    assert len(reach["return"]) == 3 and max(reach["return"]) == reach["return"][-1]
    assert reach["return"] == pytest.approx(
        [score - 0.1 * kl for score, kl in zip(reach["score"], reach["kl"], strict=True)], abs=2e-3
    )


@pytest.mark.parametrize(
    "options",
    [
        ["--stop", "b", "d", "--temperature", "0.7", "--eval-episodes", "5", "--n-envs", "12"],
        ["--seed", "3", "--max-new-tokens", "3", "--dtype", "bfloat16", "--kl-coef", "0.0"],
    ],
)
def test_again_repeats_the_table_of_other_options(options, small, printed, read_table, tmp_path):
    text = printed("train", *small, *options, "--output", str(tmp_path), "--n-epochs", "1")
    (command,) = re.findall(r"^again +python -m agents (.+)$", text, re.MULTILINE)
    again = read_table(printed(*shlex.split(command), "--device", "cpu"))
    assert again == {key: [cells[1]] for key, cells in read_table(text).items()}


def test_again_repeats_the_table_of_a_reward_of_ones_own(
    small, own_reward, printed, read_table, tmp_path
):
    folder = str(tmp_path / "run with spaces")
    text = printed("train", *small, "--reward", own_reward, "--output", folder, "--n-epochs", "1")
    (command,) = re.findall(r"^again +python -m agents (.+)$", text, re.MULTILINE)
    arguments = shlex.split(command)
    assert arguments[arguments.index("--reward") + 1] == own_reward and folder in arguments
    again = read_table(printed(*arguments, "--device", "cpu"))
    assert again == {key: [cells[1]] for key, cells in read_table(text).items()}
    assert again["score"][0] > 0
    sys.modules.pop("letters")
    with pytest.raises(SystemExit, match="names code"):
        main(["evaluate", folder, "--eval-episodes", "3"])
    assert "letters" not in sys.modules


def test_train_leaves_agent_logs_and_plot(small, tmp_path):
    main(["train", *small, "--output", str(tmp_path), "--n-epochs", "1", "--kl-coef", "0.1"])
    assert (tmp_path / "learning_curve.png").stat().st_size > 5_000
    progress = pd.read_csv(tmp_path / "progress.csv")
    assert progress["time/total_timesteps"].iloc[-1] >= 100
    assert {"rollout/score_mean", "rollout/kl", "train/approx_kl", "time/fps"} <= {*progress}
    assert any(file.name.startswith("events.out.tfevents") for file in tmp_path.iterdir())
    AutoModelForCausalLM.from_pretrained(tmp_path / "agent")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "agent")) == 8
    again = agents.algorithms.PPO.load(tmp_path, device="cpu")
    assert again.env.shaping.schedule.value == 0.1 and again.env.num_envs == 8
    assert again.num_timesteps == progress["time/total_timesteps"].iloc[-1]


def test_a_run_is_not_overwritten_unless_asked(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["train", *small, "--n-epochs", "1", "--total-timesteps", "8"]
    main([*options, "--output", "one"])
    first = (tmp_path / "one" / "settings.json").read_bytes()
    with pytest.raises(SystemExit, match=r"There is a run in 'one' already: .*--resume"):
        main([*options, "--output", "one"])
    assert (tmp_path / "one" / "settings.json").read_bytes() == first
    # What belonged to the first run is gone: `evaluate` would compare with its optimum.
    main([*options, "--output", "one", "--overwrite", "--reference-episodes", "0"])
    assert not (tmp_path / "one" / "reference_scores.json").is_file()
    for _ in range(2):
        main([*options, "--reference-episodes", "0"])
    assert [len(list((tmp_path / "runs").glob(f"ppo-*-0{n}"))) for n in ("", "-2", "-3")] == [
        1, 1, 0
    ]  # fmt: skip
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit, match="not empty and holds no run"):
        main([*options, "--output", "notes", "--overwrite"])
    assert (tmp_path / "notes" / "thesis.tex").read_text() == "years of work"


def test_a_run_is_lengthened_and_moved(small, tmp_path, monkeypatch, printed):
    """Its settings say how long it is, and its files mean the same in another working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a b\nc\n")
    (tmp_path / "held_out.txt").write_text("d d d\n")
    options = ["--n-epochs", "1", "--prompts", "p.txt", "--eval-prompts", "held_out.txt"]
    text = printed("train", *small, *options, "--output", "run")
    assert text.count("d d d") >= 10  # both evaluations
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = tmp_path / "run"
    again = printed("train", "--resume", str(run), "--total-timesteps", "200", "--device", "cpu")
    assert "going on after" in again
    settings = json.loads((run / "settings.json").read_text())
    assert settings["options"]["total_timesteps"] == 200 and "versions" in settings
    progress = pd.read_csv(run / "progress.csv")
    assert progress["time/total_timesteps"].iloc[-1] >= 200
    finished = printed("train", "--resume", str(run), "--device", "cpu")
    assert "of 200 tokens" in finished
    assert len(pd.read_csv(run / "progress.csv")) == len(progress)
    with pytest.raises(SystemExit, match="There is no run in"):
        main(["train", "--resume", str(tmp_path / "elsewhere")])
    with pytest.raises(SystemExit, match="not a file"):
        main(["train", *small, "--eval-prompts", "nofile.txt", "--output", "other"])


# Options


@pytest.mark.parametrize("name", AGENTS)
def test_help_lists_the_hyper_parameters_of_the_agent(name, capsys):
    with pytest.raises(SystemExit) as ending:
        main(["train", "--agent", name, "--help"])
    assert ending.value.code == 0
    shown = capsys.readouterr().out
    assert "--learning-rate" in shown and "--total-timesteps" in shown
    assert ("--clip-range" in shown) == (name in ("ppo", "grpo", "lookahead"))
    assert ("--group-size" in shown) == (name in ("rloo", "grpo"))
    assert ("--batch-size" in shown) == (name in ("ppo", "grpo", "trpo", "lookahead"))


def test_the_help_is_in_groups_whose_sentences_flow(capsys):
    for command in ("train", "compare"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = capsys.readouterr().out
        groups = re.findall(r"(\w+) options  ", shown)
        assert groups[:5] == ["task", "dialogue", "learning", "evaluation", "run"]
        assert shown.index("--reward STR") < shown.index(" learning options")
        text = re.sub(r"\s+", " ", shown)
        assert "in addition to the end-of-sequence token. (default: none)" in text
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "task options  " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (["--reverse-kl"], True), (["--no-reverse-kl"], False), (["--reverse-kl", "True"], True),
        (["--reverse-kl=False"], False), (["--reverse_kl", "False"], False), ([], False),
    ],
)  # fmt: skip
def test_what_is_on_or_off_may_be_written_in_each_way(written, value):
    options, hyperparameters = parse_train([*written, "--chat", "False", "--n-epochs", "3"])
    assert hyperparameters["reverse_kl"] is value and options.chat is False
    assert hyperparameters["n_epochs"] == 3


def test_an_unknown_agent_is_refused_with_the_known_ones():
    with pytest.raises(SystemExit, match="agent='dqn' is unknown: use one of grpo, ppo"):
        main(["train", "--agent", "dqn"])


def test_an_unknown_command_is_refused_with_the_known_ones(capsys):
    with pytest.raises(
        SystemExit, match=r"trian is unknown: did you mean train\? Use train, evaluate, compare"
    ):
        main(["trian"])
    main([])
    shown = capsys.readouterr().out
    assert all(f"- {name}: " in shown for name in ("train", "evaluate", "compare"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--prompts", "nofile.txt"], "prompts='nofile.txt' is not a file"),
        (["--reward", "sentimint"], "did you mean 'sentiment'"),
        (["--agent", "rloo", "--group-size", "3"], "multiple of group_size=3"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_in_one_sentence(
    options, sentence, small, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=sentence):
        main(["train", *small, *options])
    assert not (tmp_path / "runs").exists()  # what was made for the run is removed
    for output in ("mine", "mine/a/b"):  # but not what was there before
        (tmp_path / "mine").mkdir(exist_ok=True)
        with pytest.raises(SystemExit, match=sentence):
            main(["train", *small, *options, "--output", output])
        assert (tmp_path / "mine").is_dir() and not list((tmp_path / "mine").iterdir())


def test_an_error_in_ones_own_reward_ends_with_its_line(small, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.py").write_text("def score(prompt, response): return 1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SystemExit) as ending:
        main(["train", *small, "--reward", "broken:score", "--output", str(tmp_path / "run")])
    shown = capsys.readouterr()
    assert ending.value.code == 1 and "Traceback" not in shown.out + shown.err
    assert "ZeroDivisionError" in shown.out and "broken.py, line 1" in shown.out
    sys.modules.pop("broken")


def test_an_own_algorithm_is_trained_and_goes_on(small, printed, tmp_path, monkeypatch):
    """Its name is code, which no file may have imported."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ours.py").write_text("from agents import PPO\n\nclass Ours(PPO):\n    pass\n")
    run = str(tmp_path / "run")
    text = printed("train", *small, "--agent", "ours:Ours", "--n-epochs", "2", "--output", run)
    assert "Ours on" in text
    with pytest.raises(SystemExit, match="has agent='ours:Ours', which names code"):
        main(["train", "--resume", run, "--total-timesteps", "200"])
    with pytest.raises(SystemExit, match="agent='ppo' is another one than that of the run"):
        main(["train", "--resume", run, "--agent", "ppo"])
    again = printed(
        "train", "--resume", run, "--agent", "ours:Ours", "--total-timesteps", "200",
        "--device", "cpu",
    )  # fmt: skip
    assert "going on after" in again
    for name, words in (("nothing:Ours", "cannot be imported"), ("json:dumps", "no class derived")):
        with pytest.raises(SystemExit, match=words):
            main(["train", *small, "--agent", name, "--output", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
