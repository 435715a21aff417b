"""`agents.train` from Python does what ``python -m agents train`` does."""

import json

import pandas as pd
import pytest

import agents
from agents.cli import main

SMALL = {
    "n_envs": 4,
    "max_new_tokens": 6,
    "eval_episodes": 8,
    "reference_episodes": 16,
    "device": "cpu",
}


@pytest.mark.parametrize("agent", ["rloo", pytest.param("ppo", marks=pytest.mark.slow)])
def test_python_and_the_command_line_train_alike(agent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = agents.train(agent, folder="python", total_timesteps=60, seed=3, **SMALL)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    main(
        ["train", "--agent", agent, "--total-timesteps", "60", "--seed", "3", *options]
        + ["--output", "command"]
    )
    for name in ("agent/model.safetensors", "reference_scores.json", "completions.jsonl"):
        python, command = (tmp_path / folder / name for folder in ("python", "command"))
        assert python.read_bytes() == command.read_bytes()
    one, other = (
        json.loads((tmp_path / folder / "evaluation.json").read_text())
        for folder in ("python", "command")
    )
    assert one["after"]["return"] == other["after"]["return"]
    assert run.after.returns.mean() == pytest.approx(one["after"]["return"]["mean"])
    assert run.agent.num_timesteps >= 60 and run.folder.path.resolve() == tmp_path / "python"


def test_a_run_goes_on_in_its_folder(tmp_path):
    """With prompts from a table, whose rows are data as those of a list are."""
    table = pd.DataFrame({"prompt": ["The film", "A"], "answer": ["good", None]})
    first = agents.train("ppo", folder=tmp_path / "run", total_timesteps=40, prompts=table, **SMALL)
    with pytest.raises(FileExistsError, match="run"):
        agents.train("ppo", folder=tmp_path / "run", total_timesteps=40, **SMALL)
    more = agents.train(folder=tmp_path / "run", resume=True, total_timesteps=120)
    assert more.agent.num_timesteps >= 120 > first.agent.num_timesteps
    assert more.before.returns.tolist() == first.before.returns.tolist()  # not measured again
    assert {*more.after.prompts} == {*table["prompt"]}


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"agent": "dqn"}, ValueError, "agent='dqn' is unknown: use one of"),
        ({"env": "Nope-v0"}, ValueError, "env='Nope-v0' cannot be made"),
        ({"total_timesteps": 0}, ValueError, "total_timesteps=0 must be"),
        ({"kl_coef": -1}, ValueError, "kl_coef=-1 must be"),
        ({"clip_range": -1}, ValueError, "clip_range=-1 must be"),
        ({"save_every": "soon"}, ValueError, "save_every='soon' must be"),
        ({"device": "gpu"}, ValueError, "device='gpu' is unknown"),
        ({"agent": "trpo", "dtype": "bfloat16"}, ValueError, "dtype='bfloat16' does not suit"),
        ({"rewrd": "length"}, TypeError, "argument 'rewrd'. Did you mean 'reward'"),
        ({"resume": True}, ValueError, "resume=True needs the folder"),
    ],
)
def test_errors_name_the_arguments_and_leave_no_folder(
    settings, error, sentence, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=sentence) as caught:
        agents.train(**{"agent": "ppo", **settings})
    assert "--" not in str(caught.value) and not list(tmp_path.iterdir())
