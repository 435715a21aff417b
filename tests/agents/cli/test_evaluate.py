"""``evaluate``: the saved task, and the options that change it."""

from __future__ import annotations

import pytest

from agents import REINFORCE
from agents.cli import main
from agents.evaluation import evaluate_text


@pytest.fixture(scope="module")
def folders(model_folder, tmp_path_factory):
    """``folders[name]``: a saved agent of each of three algorithms."""
    import agents.algorithms

    saved = {}
    for name in ("PPO", "GRPO", "RLOO"):
        grouped = {} if name == "PPO" else {"group_size": 4}
        agent = getattr(agents.algorithms, name)(
            "CausalLMPolicy", "TextGen-v0", n_envs=8, seed=0, device="cpu",
            policy_kwargs={"model": model_folder}, **grouped,
            env_kwargs={"prompts": ["a b", "c"], "reward": "length(3)", "max_new_tokens": 5,
                        "reference": model_folder, "kl_coef": 0.1},
        )  # fmt: skip
        saved[name] = str(tmp_path_factory.mktemp("agents") / name)
        agent.learn(200).save(saved[name], optimizer=False)
    return saved


@pytest.mark.parametrize("algorithm", ["PPO", "GRPO", "RLOO"])
def test_three_episodes_of_any_agent(algorithm, folders, printed, read_table):
    """Three are no multiple of a group, nor of the agent's rows."""
    import agents.algorithms

    kind = getattr(agents.algorithms, algorithm)
    table = read_table(printed("evaluate", folders[algorithm], "--episodes", "3", "--seed", "5"))
    agent = kind.load(folders[algorithm], device="cpu")
    wanted = evaluate_text(agent, n_episodes=3, seed=5).summary()
    for key, digits in (("return", 3), ("score", 3), ("kl", 2), ("length", 1), ("distinct_2", 2)):
        value = wanted[key] if key == "distinct_2" else wanted[key]["mean"]
        assert table[key] == pytest.approx([value], abs=0.51 * 10**-digits), key
    assert table["recomputed"] == pytest.approx(table["kl"], abs=0.011)


def test_its_samples_are_those_that_are_measured(folders, printed):
    text = printed("evaluate", folders["PPO"], "--episodes", "2", "--seed", "5")
    agent = __import__("agents").PPO.load(folders["PPO"], device="cpu")
    result = evaluate_text(agent, n_episodes=2, seed=5)
    for score, prompt, response in zip(
        result.scores, result.prompts, result.responses, strict=True
    ):
        assert f"{score:+.2f}  {prompt}{response}" in text


def test_options_change_the_task(folders, printed, read_table, save_model, tmp_path):
    folder = folders["PPO"]
    plain = read_table(printed("evaluate", folder, "--episodes", "6"))
    longer = read_table(printed("evaluate", folder, "--episodes", "6", "--max-new-tokens", "2"))
    assert longer["length"][0] <= 2 < plain["length"][0]
    other = read_table(printed("evaluate", folder, "--episodes", "6", "--reward", "keyword(b)"))
    assert other["score"] != plain["score"] and other["length"] == plain["length"]
    reference = save_model(tmp_path / "reference", seed=9)
    far = read_table(printed("evaluate", folder, "--episodes", "6", "--reference", reference))
    assert far["kl"][0] > plain["kl"][0] + 0.5 and far["score"] == plain["score"]
    stopped = read_table(printed("evaluate", folder, "--episodes", "6", "--stop", *"abcdefg"))
    assert stopped["length"][0] == 1
    (tmp_path / "prompts.txt").write_text("g g g\n")
    text = printed(
        "evaluate", folder, "--episodes", "6", "--prompts", str(tmp_path / "prompts.txt")
    )
    assert text.count("g g g") >= 5


def test_a_reference_of_another_tokenizer_is_refused(folders, other_folder):
    with pytest.raises(SystemExit, match="The reference was made for another tokenizer"):
        main(["evaluate", folders["PPO"], "--episodes", "3", "--reference", other_folder])


def test_what_cannot_be_evaluated_ends_in_one_sentence(folders, on_cartpole, tmp_path):
    with pytest.raises(SystemExit, match="no agent in 'nowhere'"):
        main(["evaluate", "nowhere"])
    with pytest.raises(SystemExit, match="--eval-episodes 0 must be a whole number of at least 1"):
        main(["evaluate", folders["PPO"], "--eval-episodes", "0"])
    on_cartpole(REINFORCE).save(tmp_path / "cartpole")
    with pytest.raises(SystemExit, match=r"with agents\.evaluate\."):
        main(["evaluate", str(tmp_path / "cartpole")])

    class Mine(REINFORCE):
        pass

    on_cartpole(Mine).save(tmp_path / "mine")
    with pytest.raises(SystemExit, match="custom class, Mine: evaluate it from Python"):
        main(["evaluate", str(tmp_path / "mine")])
