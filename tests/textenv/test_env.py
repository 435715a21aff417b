"""TextGen-v0, one episode at a time: its Gymnasium surface, its episodes, what they report."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_checker import data_equivalence as equivalent

import textenv
from textenv import TextGenEnv, TextGenVectorEnv

END = 0  # the id of "<end>"


def test_gymnasiums_checker_is_content():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("TextGen-v0", max_new_tokens=3, render_mode="ansi").unwrapped)


def test_gymnasiums_checker_is_content_with_live_objects_and_a_reference(make_env, make_model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Without a spec, the checker cannot make the environment again, and warns of that.
        warnings.filterwarnings("ignore", message=".*spec.*")
        check_env(make_env(reference=make_model()), skip_render_check=True)


def test_stable_baselines3s_checker_is_content():
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(gym.make("TextGen-v0", max_new_tokens=3), warn=True)


def test_make_gives_one_row_and_make_vec_the_native_rows():
    assert isinstance(gym.make("TextGen-v0").unwrapped, TextGenEnv)
    envs = gym.make_vec("TextGen-v0", num_envs=3, max_new_tokens=5)
    assert isinstance(envs, TextGenVectorEnv)
    assert (envs.num_envs, envs.max_new_tokens) == (3, 5)


def test_the_spaces_follow_vocabulary_and_length(make_env, tokenizer):
    env = make_env()
    length = len("Now: go") + 4
    assert env.action_space == gym.spaces.Discrete(len(tokenizer))
    assert env.observation_space == gym.spaces.Dict(
        input_ids=gym.spaces.Box(0, len(tokenizer) - 1, (length,), np.int64),
        attention_mask=gym.spaces.Box(0, 1, (length,), np.int8),
    )


def test_importing_textenv_does_not_import_transformers():
    script = "import sys, json, textenv; print(json.dumps('transformers' in sys.modules))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(output.stdout) is False


def test_public_names_exist():
    assert all(hasattr(textenv, name) for name in textenv.__all__)


def test_rows_are_contiguous_from_column_0(make_env, ids):
    env = make_env()
    observation, info = env.reset(options={"prompt_index": 0})
    prompt = ids("Say: ")
    assert info == {"prompt": "Say: "}
    assert observation["input_ids"].tolist() == prompt + [0] * 6
    assert observation["attention_mask"].tolist() == [1] * 5 + [0] * 6
    for number, token in enumerate(ids("hey"), start=1):
        observation, *_ = env.step(token)
        assert observation["input_ids"].tolist() == prompt + ids("hey")[:number] + [0] * (
            6 - number
        )
        assert observation["attention_mask"].tolist() == [1] * (5 + number) + [0] * (6 - number)
    assert observation in env.observation_space
    assert (observation["input_ids"].dtype, observation["attention_mask"].dtype) == (
        np.int64,
        np.int8,
    )


def test_an_observation_is_not_changed_by_the_next_step(make_env, ids):
    env = make_env()
    first, _ = env.reset(seed=0)
    kept = {key: value.copy() for key, value in first.items()}
    env.step(ids("x")[0])
    assert equivalent(first, kept)


def test_a_conversation_is_rendered_by_the_chat_template(make_env, tokenizer, monkeypatch):
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", template)
    env = make_env(prompts=[{"prompt": [{"role": "user", "content": "Hi"}]}])
    observation, info = env.reset()
    assert info["prompt"] == "[user]Hi[assistant]"
    assert tokenizer.decode(observation["input_ids"][: len(info["prompt"])]) == info["prompt"]


def test_the_budget_ends_an_episode_as_terminated_never_as_truncated(
    make_env, ids, reward, write, ends
):
    steps = write(make_env(), ids("wxyz"))
    assert ends(steps) == [False, False, False, True]
    assert [truncated for *_, truncated, _ in steps] == [False] * 4
    assert [reward for _, reward, *_ in steps] == [0, 0, 0, 4]
    assert steps[-1][-1] == {
        "response": "wxyz",
        "response_length": 4,
        "score": 4.0,
        "finish_reason": "length",
    }
    assert all(info == {} for *_, info in steps[:-1])


def test_values_have_plain_python_types(make_env, ids, write):
    _, value, terminated, truncated, info = write(make_env(max_new_tokens=1), ids("w"))[0]
    assert type(value) is float and terminated is True and truncated is False
    assert {type(entry) for entry in info.values()} == {str, int, float}


def test_an_empty_response_has_its_score(make_env, write):
    steps = write(make_env(no_stop_penalty=5), [END])
    assert steps[0][1] == 0 and steps[0][-1]["response"] == ""
    assert steps[0][-1]["response_length"] == 1


def test_an_episode_that_never_stopped_is_paid_less_than_its_score(make_env, ids, write):
    env = make_env(no_stop_penalty=2.5)
    _, value, *_, info = write(env, ids("wxyz"))[-1]
    assert (value, info["score"], info["no_stop_penalty"]) == (1.5, 4, 2.5)
    _, value, *_, info = write(env, [*ids("wxy"), END])[-1]
    assert (value, info["score"], info["no_stop_penalty"]) == (3, 3, 0)


def test_a_function_of_prompt_and_response_is_a_reward(make_env, ids, write):
    env = make_env(reward=lambda prompt, response: len(prompt) * 10 + len(response))
    assert write(env, [*ids("hi"), END])[-1][1] == 52


def test_a_reference_reports_at_each_step(make_env, make_model, ids, write):
    model = make_model()
    tokens = [*ids("hi"), END]
    steps = write(make_env(reference=model), tokens)
    row = torch.tensor([*ids("Say: "), *tokens])
    with torch.no_grad():
        every = model(input_ids=row[None]).logits[0].log_softmax(-1)
    for column, (_, value, terminated, _, info) in enumerate(steps, start=4):
        wanted = every[column, row[column + 1]].item()
        assert info["ref_log_prob"] == pytest.approx(wanted, abs=1e-4)
        assert type(info["ref_log_prob"]) is float
        assert "kl" not in info  # nobody is bound
        assert ("response" in info) == terminated
        assert value == (2 if terminated else 0)


def test_prompts_are_drawn_by_the_seed(make_env):
    env = make_env(prompts=[str(number) for number in range(10)])
    first = [env.reset(seed=3)[1]["prompt"], *[env.reset()[1]["prompt"] for _ in range(20)]]
    again = [env.reset(seed=3)[1]["prompt"], *[env.reset()[1]["prompt"] for _ in range(20)]]
    other = [env.reset(seed=4)[1]["prompt"], *[env.reset()[1]["prompt"] for _ in range(20)]]
    assert first == again != other
    assert len(set(first)) > 5


def test_a_prompt_may_be_picked(make_env):
    env = make_env()
    assert [env.reset(options={"prompt_index": i})[1]["prompt"] for i in (1, 0, 1)] == [
        "Now: go",
        "Say: ",
        "Now: go",
    ]


@pytest.mark.parametrize("index", [2, -1, 0.5, "one"])
def test_a_prompt_that_is_not_there_is_refused(index, make_env):
    with pytest.raises(
        ValueError, match=r"options\['prompt_index'\]=\[.*\] must be 1 whole numbers from 0 to 1"
    ):
        make_env().reset(options={"prompt_index": index})


def test_an_episode_may_be_abandoned(make_env, ids, reward, write, ends):
    env = make_env()
    write(env, ids("hi"))
    assert ends(write(env, [*ids("xyz"), END])) == [False, False, False, True]
    assert reward.last.response == "xyz" and len(reward.calls) == 1


def test_equal_seeds_and_actions_give_equal_episodes(make_env, make_model):
    def run():
        env = make_env(reference=make_model(), stop="e")
        env.action_space.seed(7)
        trace = [env.reset(seed=11)]
        for _ in range(60):
            trace.append(env.step(env.action_space.sample()))
            if trace[-1][2]:
                trace.append(env.reset())
        return trace

    assert equivalent(run(), run())


class RandomTokens:
    """Stable-baselines3's idea of a model, for its evaluation loop."""

    def __init__(self, action_space):
        self.action_space = action_space

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        rows = len(observation["input_ids"])
        return np.array([self.action_space.sample() for _ in range(rows)]), state


@pytest.mark.filterwarnings("error:.*render_mode")
def test_stable_baselines3_drives_and_evaluates_it():
    env_util = pytest.importorskip("stable_baselines3.common.env_util")
    from stable_baselines3.common.evaluation import evaluate_policy

    envs = env_util.make_vec_env(
        "TextGen-v0", n_envs=2, seed=1, env_kwargs={"reward": "length(3)", "max_new_tokens": 3}
    )
    model = RandomTokens(envs.action_space)
    model.action_space.seed(0)
    returns, lengths = evaluate_policy(model, envs, 5, return_episode_rewards=True)
    assert len(returns) == 5
    assert returns == pytest.approx([length / 3 for length in lengths])


@pytest.mark.parametrize("action", [1.0, True, np.array([1]), None, "a"])
def test_the_single_environment_takes_one_whole_number(action, make_small):
    env = make_small(None)
    env.reset()
    with pytest.raises(ValueError, match=r"action=.* must be one token id, an integer"):
        env.step(action)


@pytest.mark.parametrize("action", [-1, 259])
def test_the_single_environment_refuses_tokens_out_of_range(action, make_small):
    env = make_small(None)
    env.reset()
    with pytest.raises(ValueError, match=rf"the token id {action}, but the vocabulary has the ids"):
        env.step(action)


def test_the_single_environment_does_not_go_on_after_the_end(make_small):
    env = make_small(None)
    env.reset()
    env.step(0)
    with pytest.raises(gym.error.ResetNeeded, match=r"have ended .*: call reset\(\)"):
        env.step(5)
