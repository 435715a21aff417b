"""``text_info=False``: infos with the same keys at every reset and step, numbers only."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agents import REINFORCE
from textenv import TextGenEnv
from textenv.rows.infos import SAME_STEP_KEYS

END, Q = 0, 50  # the ids of "<end>" and "Q"
PARTS = {"reward": {"length(3)": 2.0, "keyword(q)": 1.0}, "no_stop_penalty": 0.5}
KEYS = {"prompt_index", "response_length", "stopped", "score"}
OF_PARTS = {"score_length(3)", "score_keyword(q)", "no_stop_penalty"}


def numbers_of(infos):
    """The columns of the rows, which must be numbers that are valid everywhere."""
    found = {key: column for key, column in infos.items() if key not in SAME_STEP_KEYS}
    columns = {key: column for key, column in found.items() if not key.startswith("_")}
    assert set(found) == {*columns, *(f"_{key}" for key in columns)}
    for key, column in columns.items():
        assert column.dtype in (np.int64, np.float64) and found[f"_{key}"].all()
    return columns


def test_the_keys_are_always_the_same(mode, array, make_envs, random_actions, make_model):
    envs = make_envs(
        text_info=False, autoreset_mode=mode, array=array, reference=make_model(), **PARTS
    )
    keys = KEYS | OF_PARTS | {"ref_log_prob"}
    _, infos = envs.reset(seed=0)
    assert numbers_of(infos).keys() == keys
    some_ended = 0
    for actions in random_actions(0, 30):
        _, _, terminated, _, infos = envs.step(actions)
        assert numbers_of(infos).keys() == keys
        some_ended += bool(np.asarray(terminated).any())
        if "final_info" in infos:
            final = infos["final_info"]
            assert {key for key in final if not key.startswith("_")} == keys
        if mode == AutoresetMode.DISABLED and np.asarray(terminated).any():
            _, infos = envs.reset(options={"reset_mask": np.asarray(terminated)})
            assert numbers_of(infos).keys() == keys
    assert some_ended > 3


def test_the_numbers_are_those_beside_the_texts(mode, make_envs, random_actions):
    """Against the same episodes with texts."""
    with_texts, envs = (
        make_envs(text_info=text_info, autoreset_mode=mode, **PARTS) for text_info in (True, False)
    )
    (_, texts), (_, numbers) = with_texts.reset(seed=0), envs.reset(seed=0)
    prompts = [prompt.text for prompt in envs.prompts]
    begun = texts["prompt"]
    assert [prompts[index] for index in numbers["prompt_index"]] == begun.tolist()
    for actions in random_actions(1, 30):
        *_, ended, _, texts = with_texts.step(actions)
        *_, numbers = envs.step(actions)
        before = begun.copy()
        if "prompt" in texts:
            begun[texts["_prompt"]] = texts["prompt"][texts["_prompt"]]
        assert [prompts[index] for index in numbers["prompt_index"]] == begun.tolist()
        if mode == AutoresetMode.SAME_STEP:
            assert not numbers["score"].any()  # those of the next episodes
            assert ("final_info" in numbers) == ended.any()
            texts, numbers = texts.get("final_info", {}), numbers.get("final_info", numbers)
        if ended.any():
            indices = numbers["prompt_index"][ended]
            assert [prompts[index] for index in indices] == before[ended].tolist()
            assert numbers["stopped"][ended].tolist() == [
                reason == "stop" for reason in texts["finish_reason"][ended]
            ]
        for key in {"response_length", "score"} | OF_PARTS:
            with_slash = key.replace("score_", "score/")
            wanted = texts[with_slash] if with_slash in texts else np.zeros(len(ended))
            assert numbers[key][ended].tolist() == wanted[ended].tolist()
            if mode != AutoresetMode.SAME_STEP:
                assert not numbers[key][~ended].any()
        if mode == AutoresetMode.DISABLED and ended.any():
            _, texts = with_texts.reset(options={"reset_mask": ended})
            envs.reset(options={"reset_mask": ended})
            begun[ended] = texts["prompt"][ended]


def test_the_single_environment_gives_numpy_scalars(make_env, write):
    env = make_env(text_info=False)
    _, first = env.reset(options={"prompt_index": 1})
    assert first == {"prompt_index": 1, "response_length": 0, "stopped": 0, "score": 0}
    *_, (_, _, _, _, last) = write(env, [Q, Q, END])
    assert last == {"prompt_index": 0, "response_length": 3, "stopped": 1, "score": 2}
    for info in (first, last):
        assert [type(value) for value in info.values()] == [np.int64] * 3 + [np.float64]


def test_gymnasiums_checker_is_content():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("TextGen-v0", max_new_tokens=3, text_info=False, render_mode="rgb_array")
        check_env(env.unwrapped)


def test_the_kl_of_a_bound_policy_is_among_the_numbers(make_envs, make_model, bound):
    env = make_envs(2, text_info=False, reference=make_model(seed=1), kl_coef=0.1)
    policy = bound(env, make_model(seed=0))
    observation, infos = env.reset(seed=0)
    assert infos["kl"].tolist() == [0, 0]
    actions = policy.act(observation).numpy()
    log_probs = policy.action_record.log_probs.numpy()
    *_, infos = env.step(actions)
    wanted = log_probs - infos["ref_log_prob"]
    assert infos["kl"] == pytest.approx(wanted, abs=1e-5) and infos["kl"].all()


def test_a_vector_of_single_environments_has_the_same_numbers(arguments, make_envs, random_actions):
    native = make_envs(text_info=False, autoreset_mode="SAME_STEP")
    single = SyncVectorEnv(
        [lambda: TextGenEnv(**arguments, text_info=False)] * 4,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    native.reset(seed=3), single.reset(seed=3)
    for actions in random_actions(2, 20):
        ours, theirs = native.step(actions)[-1], single.step(actions)[-1]
        for key in KEYS:
            assert ours[key].tolist() == theirs[key].tolist()


def test_an_agent_learns_from_environments_without_texts(arguments, make_model, tokenizer):
    single = TextGenEnv(**arguments, text_info=False)
    agent = REINFORCE(
        "CausalLMPolicy", SyncVectorEnv([lambda: single], autoreset_mode=AutoresetMode.SAME_STEP),
        n_steps=8, policy_kwargs={"model": make_model()}, seed=0,
    )  # fmt: skip
    assert agent.learn(8).num_timesteps >= 8


def test_batch_scoring_needs_texts(make_envs, batch, make_model):
    match = r"text_info=False needs scoring='step'"
    with pytest.raises(ValueError, match=match):
        make_envs(text_info=False, **batch)
    with pytest.raises(ValueError, match=match):  # an agent scores in batches
        REINFORCE("CausalLMPolicy", "TextGen-v0", env_kwargs={"text_info": False})


@pytest.mark.parametrize("value", [None, 0, "no"])
def test_it_is_a_bool(value, refuses):
    refuses(rf"text_info={value!r} must be True or False", text_info=value)
