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
from gymnasium.envs.registration import EnvSpec, registry
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_checker import data_equivalence as equivalent
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import textenv
from textenv import AdaptiveKL, Shared, TextGenEnv, TextGenVectorEnv

END, STOP = 0, 1  # the ids of "<end>" and "<stop>"


class Recorder:
    """A reward that keeps the episodes it was given; the score is the response's characters."""

    name = "recorder"

    def __init__(self):
        self.calls = []

    def __call__(self, episodes):
        self.calls.append(list(episodes))
        return [float(len(episode.response)) for episode in episodes]

    @property
    def last(self):
        return self.calls[-1][-1]


@pytest.fixture
def reward():
    return Recorder()


@pytest.fixture
def make_env(tokenizer, reward):
    def make(**changes):
        arguments = {
            "tokenizer": tokenizer,
            "prompts": ["Say: ", "Now: go"],
            "reward": reward,
            "max_new_tokens": 4,
        }
        return TextGenEnv(**{**arguments, **changes})

    return make


@pytest.fixture
def ids(tokenizer):
    """The token ids of a text."""
    return lambda text: tokenizer(text).input_ids


def write(env, tokens):
    """Reset to the first prompt and take these actions; all that ``step`` returned, in order."""
    env.reset(options={"prompt_index": 0})
    return [env.step(np.int64(token)) for token in tokens]


def ends(steps):
    return [terminated for _, _, terminated, _, _ in steps]


# --- Gymnasium's surface ------------------------------------------------------------------------


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


def test_a_spec_of_string_ids_survives_json():
    env = gym.make("TextGen-v0", reward="length(3)", max_new_tokens=3)
    spec = EnvSpec.from_json(env.spec.to_json())
    assert spec.kwargs == {"reward": "length(3)", "max_new_tokens": 3}
    again = gym.make(spec)
    assert equivalent(env.reset(seed=5), again.reset(seed=5))


class Uncopyable(Recorder):
    def __deepcopy__(self, memo):
        raise AssertionError("a live object was copied")


@pytest.fixture
def live_arguments(tokenizer, make_model):
    model = make_model()
    type(model).__deepcopy__ = lambda self, memo: pytest.fail("the model was copied")
    yield {
        "tokenizer": tokenizer,
        "prompts": [{"prompt": "a", "data": object()}],
        "reward": Uncopyable(),
        "reference": model,
        "kl_coef": AdaptiveKL(),
        "max_new_tokens": np.int64(3),
    }
    del type(model).__deepcopy__


def test_live_objects_in_a_spec_are_shared_and_never_copied(live_arguments):
    env = RecordEpisodeStatistics(TimeLimit(gym.make("TextGen-v0", **live_arguments), 2))
    for spec in (env.spec, env.unwrapped.spec, gym.make(env.spec).spec):
        for name in ("tokenizer", "reward", "reference", "kl_coef", "prompts"):
            assert spec.kwargs[name].value is live_arguments[name]
    again = gym.make(env.spec)
    assert isinstance(again, RecordEpisodeStatistics)
    row = again.unwrapped._row
    assert row.tokenizer is live_arguments["tokenizer"]
    assert row.reward.function is live_arguments["reward"]
    assert row.shaping.reference is live_arguments["reference"]
    assert row.shaping.schedule is live_arguments["kl_coef"]


def test_live_objects_in_a_vector_spec_are_shared_and_never_copied(live_arguments):
    mode = gym.vector.AutoresetMode.DISABLED
    envs = gym.make_vec(
        "TextGen-v0",
        num_envs=2,
        autoreset_mode=mode,
        device=torch.device("cpu"),
        **live_arguments,
    )
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    again = gym.make_vec(wrapped.spec)
    assert (again.num_envs, again.metadata["autoreset_mode"]) == (2, mode)
    assert again.unwrapped.reward.function is live_arguments["reward"]
    assert again.unwrapped.shaping.reference is live_arguments["reference"]


def test_an_id_of_ones_own_may_hold_live_objects(live_arguments):
    live_arguments.pop("kl_coef")
    gym.register(
        "Mine-v0",
        entry_point="textenv:TextGenEnv",
        vector_entry_point="textenv:TextGenVectorEnv",
        kwargs={
            key: Shared(value) if key in ("reference", "reward") else value
            for key, value in live_arguments.items()
            if key not in ("prompts", "max_new_tokens")
        }
        | {"prompts": ["a", "bc"], "max_new_tokens": 5},
    )
    try:
        env = gym.make("Mine-v0", max_new_tokens=2)
        assert env.observation_space["input_ids"].shape == (4,)
        assert env.unwrapped._row.shaping.reference is live_arguments["reference"]
        envs = gym.make_vec("Mine-v0", num_envs=2)
        assert isinstance(envs, TextGenVectorEnv)
        assert envs.shaping.reference is live_arguments["reference"]
        assert envs.reset(seed=1)[0]["input_ids"].shape == (2, 7)
    finally:
        del registry["Mine-v0"]


def test_importing_textenv_does_not_import_transformers():
    script = "import sys, json, textenv; print(json.dumps('transformers' in sys.modules))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(output.stdout) is False


def test_public_names_exist():
    assert all(hasattr(textenv, name) for name in textenv.__all__)


# --- observations -------------------------------------------------------------------------------


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


# --- how episodes end ---------------------------------------------------------------------------


def test_the_budget_ends_an_episode_as_terminated_never_as_truncated(make_env, ids, reward):
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


def test_values_have_plain_python_types(make_env, ids):
    _, value, terminated, truncated, info = write(make_env(max_new_tokens=1), ids("w"))[0]
    assert type(value) is float and terminated is True and truncated is False
    assert {type(entry) for entry in info.values()} == {str, int, float}


def test_a_stop_token_ends_an_episode_and_counts_as_an_action(make_env, ids, reward):
    steps = write(make_env(), [*ids("hi"), END])
    assert ends(steps) == [False, False, True]
    observation, score, _, _, info = steps[-1]
    assert score == 2
    assert info == {
        "response": "hi",
        "response_length": 3,
        "score": 2.0,
        "finish_reason": "stop",
    }
    # <end> is the padding as well: the mask comes from the length, not from the id.
    assert observation["attention_mask"].sum() == 5 + 3
    assert reward.last.response_ids.tolist() == [*ids("hi"), END]


def test_a_stop_token_on_the_last_token_of_the_budget_is_a_stop(make_env, ids):
    *_, info = write(make_env(max_new_tokens=2), [*ids("h"), END])[-1]
    assert info["finish_reason"] == "stop"


def test_an_empty_response_has_its_score(make_env):
    steps = write(make_env(no_stop_penalty=5), [END])
    assert steps[0][1] == 0 and steps[0][-1]["response"] == ""
    assert steps[0][-1]["response_length"] == 1


@pytest.mark.parametrize("stop", ["<stop>", STOP, ["<stop>", "x"], [STOP, 2]])
def test_there_may_be_several_stop_tokens(stop, make_env, ids):
    env = make_env(stop=stop)
    assert ends(write(env, [*ids("h"), STOP])) == [False, True]
    assert ends(write(env, [*ids("h"), END])) == [False, True]


def test_a_further_stop_token_keeps_its_text(make_env, ids):
    *_, info = write(make_env(stop=ids("!")), ids("hi!"))[-1]
    assert (info["response"], info["finish_reason"]) == ("hi!", "stop")


@pytest.mark.parametrize(
    ("stop", "pieces", "response"),
    [
        ("\n", ["h", "i", "\n"], "hi"),
        ("end", ["x", "e", "n", "d"], "x"),  # across three tokens
        ("ba", ["x", "b", "ab"], "x"),  # its last token goes on behind it
        ("b", ["x", "ab"], "xa"),  # inside a token
        (["zz", "yx"], ["y", "x"], ""),  # any of several
        ("é", ["é"], ""),  # one character of two tokens
    ],
)
def test_a_stop_string_ends_an_episode_wherever_tokens_break(
    stop, pieces, response, make_env, ids, reward
):
    tokens = [token for piece in pieces for token in ids(piece)]
    steps = write(make_env(stop=stop), tokens)
    assert ends(steps) == [False] * (len(tokens) - 1) + [True]
    *_, info = steps[-1]
    assert (info["response"], info["finish_reason"]) == (response, "stop")
    assert info["response_length"] == len(tokens)
    assert reward.last.response_ids.tolist() == tokens  # every action is kept


def test_a_stop_string_must_be_in_the_response_alone(make_env, ids):
    env = make_env(prompts=["say en"], stop="end")
    assert ends(write(env, ids("d!"))) == [False, False]


def test_a_stop_string_ending_in_a_space_is_found_where_pieces_are_joined(reward):
    vocabulary = {"<end>": 0, "▁": 1, "hi": 2, "▁there": 3, "▁you": 4}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="▁"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    arguments = {"tokenizer": tokenizer, "prompts": ["there"], "reward": reward}
    steps = write(TextGenEnv(**arguments, stop="hi "), [2, 3])
    assert ends(steps) == [False, True]
    # Alone, this kind of tokenizer would drop the space before the first token of a response.
    *_, info = write(TextGenEnv(**arguments, max_new_tokens=2), [4, 3])[-1]
    assert info["response"] == " you there"


def test_min_new_tokens_puts_off_every_kind_of_stop(make_env, ids):
    env = make_env(min_new_tokens=3, stop="x")
    assert ends(write(env, [END, *ids("x"), END])) == [False, False, True]
    assert ends(write(env, [*ids("xyx")])) == [False, False, True]
    *_, info = write(env, [*ids("xyzw")])[-1]
    assert (info["response"], info["finish_reason"]) == ("xyzw", "length")


def test_an_episode_that_never_stopped_is_penalised_in_its_score(make_env, ids):
    env = make_env(no_stop_penalty=2.5)
    _, value, *_, info = write(env, ids("wxyz"))[-1]
    assert (value, info["score"]) == (1.5, 1.5)
    _, value, *_, info = write(env, [*ids("wxy"), END])[-1]
    assert (value, info["score"]) == (3, 3)


def test_a_prompt_may_contain_the_end_token(make_env, ids, reward):
    env = make_env(prompts=["a<end>b"])
    observation, info = env.reset()
    prompt = [*ids("a"), END, *ids("b")]
    assert observation["input_ids"][:3].tolist() == prompt
    assert observation["attention_mask"].sum() == 3
    assert info["prompt"] == "a<end>b"
    assert ends(write(env, [*ids("hi"), END])) == [False, False, True]
    assert (reward.last.prompt, reward.last.response) == ("a<end>b", "hi")
    assert reward.last.prompt_ids.tolist() == prompt


def test_the_reward_reads_the_whole_episode(make_env, ids, reward):
    rows = [{"prompt": "2+2=", "answer": 4, "tags": ["sum"]}, "hi"]
    write(make_env(prompts=rows), [*ids("4"), END])
    episode = reward.last
    assert (episode.prompt, episode.response, episode.finish_reason) == ("2+2=", "4", "stop")
    assert episode.prompt_ids.tolist() == ids("2+2=")
    assert episode.response_ids.tolist() == [*ids("4"), END]
    assert episode.data == {"answer": 4, "tags": ["sum"]}
    assert len(reward.calls) == 1


def test_a_function_of_prompt_and_response_is_a_reward(make_env, ids):
    env = make_env(reward=lambda prompt, response: len(prompt) * 10 + len(response))
    assert write(env, [*ids("hi"), END])[-1][1] == 52


def test_a_reference_reports_at_each_step(make_env, make_model, ids):
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


# --- reset --------------------------------------------------------------------------------------


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


def test_an_episode_may_be_abandoned(make_env, ids, reward):
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


# --- render -------------------------------------------------------------------------------------


def test_ansi_colours_the_tokens_by_their_reward(make_env, ids):
    env = make_env(render_mode="ansi", max_new_tokens=2)
    write(env, ids("h"))
    assert env.render() == "Say: h"
    env.step(ids("i")[0])
    assert env.render() == "Say: h\x1b[30;48;5;46mi\x1b[0m"
    env.reset(options={"prompt_index": 1})
    assert env.render() == "Now: go"


def test_ansi_colours_bad_ends_red(make_env, ids):
    env = make_env(render_mode="ansi", max_new_tokens=1, no_stop_penalty=9)
    write(env, ids("h"))
    assert env.render() == "Say: \x1b[30;48;5;196mh\x1b[0m"


def test_ansi_colours_by_the_reward_where_a_reference_is_not_compared_with(
    make_env, make_model, ids
):
    env = make_env(render_mode="ansi", max_new_tokens=2, reference=make_model())
    write(env, ids("hi"))
    assert env.render() == "Say: h\x1b[30;48;5;46mi\x1b[0m"


@pytest.mark.parametrize("mode", [None, "rgb_array", "human"])
def test_any_other_mode_renders_nothing(mode, make_env):
    env = make_env(render_mode=mode)
    env.reset()
    assert env.render_mode is None and env.render() is None


# --- other libraries ----------------------------------------------------------------------------


class RandomTokens:
    """Stable-baselines3's idea of a model, for its evaluation loop."""

    def __init__(self, action_space):
        self.action_space = action_space

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        rows = len(observation["input_ids"])
        return np.array([self.action_space.sample() for _ in range(rows)]), state


@pytest.mark.filterwarnings("ignore:.*render_mode='rgb_array'")
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
