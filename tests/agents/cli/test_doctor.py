"""``doctor``: runs that are broken on purpose, healthy ones, and what cannot be read."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import replace

import pytest

from agents import PPO, CausalLMPolicy
from agents.cli import main
from agents.runs import RunRecorder

SHORT = [
    "--total-timesteps", "10000", "--n-envs", "64", "--eval-episodes", "64", "--device", "cpu",
    "--reference-episodes", "256",
]  # fmt: skip

# The planted cause, and the options that plant it.
BROKEN = {
    "constant reward": ["--reward", "keyword(xylophone)"],
    "groups without spread": [
        "--agent", "rloo", "--group-size", "2", "--reward", "keyword(great)",
    ],
    "clipping too much": ["--clip-range", "0.01", "--batch-size", "8"],
    "nothing clipped": ["--learning-rate", "1e-7", "--batch-size", "16"],
    "trust region refused": [
        "--agent", "trpo", "--fisher-rows", "1", "--cg-damping", "1e-3",
        "--line-search-max-iter", "1",
    ],
    "weak critic": ["--vf-learning-rate", "1e-9"],
    "KL running away": ["--agent", "reinforce", "--learning-rate", "2e-2", "--kl-coef", "0.01"],
    "nothing moved": ["--agent", "reinforce", "--learning-rate", "1e-8"],
    "entropy collapsed": ["--learning-rate", "1e-2", "--n-epochs", "8"],
    "worth less": ["--agent", "reinforce", "--learning-rate", "3e-2"],
    "cut at budget": ["--max-new-tokens", "4"],
    "short responses": [
        "--agent", "reinforce", "--learning-rate", "1e-2", "--reward", "length(1)",
        "--kl-coef", "0",
    ],
}  # fmt: skip

HEALTHY = [("ppo", 0), ("grpo", 1), ("reinforce", 2), ("trpo", 3), ("actor-critic", 4)]


def doctor(*folders) -> tuple[int, str]:
    """The exit code and what is printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main(["doctor", *map(str, folders)])
    return ended.value.code, out.getvalue()


def found(text: str) -> set[str]:
    return set(re.findall(r"^✗ ([\w ]+):", text, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize("cause", BROKEN)
def test_the_planted_cause_is_named(cause, tmp_path, capsys):
    main(["train", *SHORT, *BROKEN[cause], "--output", str(tmp_path / "run")])
    code, text = doctor(tmp_path / "run")
    assert code == 1
    assert cause in found(text), text


class Mismatched(CausalLMPolicy):
    """Acts at another temperature than it learns at, the commonest cause of a wrong ratio."""

    def act(self, *arguments, **options):
        whole = self.sampling
        self.sampling = replace(whole, temperature=1.5)
        try:
            return super().act(*arguments, **options)
        finally:
            self.sampling = whole


@pytest.mark.slow
def test_a_first_ratio_that_is_not_one_is_named(tmp_path):
    agent = PPO(Mismatched, "TextGen-v0", n_envs=32, seed=0, device="cpu")
    agent.learn(2000, callback=RunRecorder(tmp_path / "run"))
    code, text = doctor(tmp_path / "run")
    assert code == 1 and "first ratio" in found(text), text


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "seed"), HEALTHY)
def test_healthy_runs_are_left_in_peace(agent, seed, tmp_path):
    main([
        "train", "--agent", agent, "--seed", str(seed), "--total-timesteps", "20000",
        "--eval-episodes", "128", "--reference-episodes", "1024", "--device", "cpu",
        "--output", str(tmp_path / "run"),
    ])  # fmt: skip
    code, text = doctor(tmp_path / "run")
    assert (code, found(text)) == (0, set()), text


# Every algorithm, quickly: a tiny run has findings, but each number is logged.


@pytest.mark.parametrize("agent", ["ppo", "grpo", "trpo", "reinforce"])
def test_every_algorithm_logs_what_the_doctor_reads(agent, small, tmp_path, printed):
    folder = tmp_path / "run"
    grouped = ["--group-size", "4"] if agent in ("grpo", "rloo") else []
    printed("train", *small, "--agent", agent, *grouped, "--output", str(folder))
    code, text = doctor(folder)
    assert code in (0, 1)
    looked_at = " ".join(text.split("not looked at")[0].split())
    assert "first ratio" in looked_at and "first ratio" not in found(text)
    assert ("groups without spread" in looked_at) == (agent in ("grpo", "rloo"))


def test_codes_are_those_of_linters(small, tmp_path, printed, capsys):
    broken = tmp_path / "broken"
    printed("train", *small, "--reward", "keyword(z)", "--output", str(broken))
    code, text = doctor(broken)
    assert code == 1 and "constant reward" in found(text)
    assert "keyword(z)" in text  # the option to change, as it is now
    code, text = doctor(broken, tmp_path / "missing")
    assert code == 2 and "constant reward" in found(text)
    assert "missing" in capsys.readouterr().err
    (broken / "settings.json").write_text("{")
    assert doctor(broken)[0] == 2
    assert doctor()[0] == 2


def test_a_run_that_has_only_begun_is_no_case_for_the_doctor(tmp_path, capsys):
    (tmp_path / "settings.json").write_text(json.dumps({"versions": {}}))
    (tmp_path / "progress.csv").write_text("")
    assert doctor(tmp_path)[0] == 2
    assert "has not logged a rollout yet" in capsys.readouterr().err


def test_a_single_rollout_is_no_sound_run(small, tmp_path, printed):
    folder = tmp_path / "run"
    printed("train", *small, "--total-timesteps", "8", "--output", str(folder))
    code, text = doctor(folder)
    assert code == 1 and "a single rollout" in found(text) and "(n_envs)" in " ".join(text.split())
    printed("train", "--resume", str(folder), "--total-timesteps", "80")
    assert "a single rollout" not in found(doctor(folder)[1])
