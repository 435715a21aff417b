"""The arguments that say what an episode is: checked, resolved, and written as data."""

from __future__ import annotations

import json

import pytest

from textenv import AdaptiveKL, Shared, TextGenEnv


def test_an_unknown_reward_is_refused_with_near_names(refuses):
    refuses(
        r"reward='sentimant' is unknown: did you mean 'sentiment'\? Use one of countdown, haiku, ",
        reward="sentimant",
    )


def test_a_reward_of_a_wrong_type_is_refused(make_small):
    with pytest.raises(TypeError, match=r"reward=7 is a int: pass a callable, a name, "):
        make_small(reward=7)


def test_an_empty_list_of_prompts_is_refused(refuses):
    refuses(r"prompts is empty: give at least one prompt", prompts=[])


def test_a_prompt_without_tokens_is_refused(refuses):
    refuses(
        r"prompts\[1\] is '', which has no token: this tokenizer has no beginning-of-sequence",
        prompts=["a", ""],
    )


def test_a_prompt_that_is_too_long_is_refused(make_small, refuses):
    refuses(
        r"prompts\[1\] has 6 tokens, more than max_prompt_tokens=5: shorten it \('longer'\.\.\.\) "
        r"or raise the limit",
        max_prompt_tokens=5,
    )
    assert make_small(max_prompt_tokens=6).max_length == 9


def test_an_episode_longer_than_the_references_context_is_refused(refuses, make_small, make_model):
    make_small(reference=make_model(), max_new_tokens=58)
    refuses(
        r"Episodes may take 65 tokens \(longest prompt \+ max_new_tokens\), but the context of "
        r"LlamaForCausalLM is 64: lower max_new_tokens or max_prompt_tokens",
        reference=make_model(),
        max_new_tokens=59,
    )


def test_a_tokenizer_larger_than_the_reference_is_refused(refuses, make_model):
    refuses(
        r"The tokenizer has 259 tokens, but the reference model only 258: give a tokenizer and a "
        r"reference that belong together",
        reference=make_model(vocab_size=258),
    )


def test_a_reference_that_does_not_exist_is_refused(make_small):
    with pytest.raises(FileNotFoundError, match=r"No model folder at './nowhere': give a folder"):
        make_small(reference="./nowhere")


def test_budgets_that_leave_no_room_are_refused(refuses):
    refuses(r"max_new_tokens=0 must be a whole number of at least 1", max_new_tokens=0)
    refuses(r"min_new_tokens=4 must be between 0 and max_new_tokens=3", min_new_tokens=4)
    refuses(r"min_new_tokens=-1 must be a whole number of at least 0", min_new_tokens=-1)


@pytest.mark.parametrize("penalty", [float("nan"), float("inf")])
def test_a_penalty_that_is_no_number_is_refused(penalty, refuses):
    refuses(rf"no_stop_penalty={penalty} must be a number", no_stop_penalty=penalty)


@pytest.mark.parametrize("coefficient", [-0.1, float("nan"), float("inf")])
def test_a_kl_coefficient_out_of_range_is_refused(coefficient, refuses, make_model):
    refuses(
        rf"kl_coef={coefficient} must be a finite number of at least 0",
        reference=make_model(),
        kl_coef=coefficient,
    )


def test_a_kl_coefficient_that_is_no_schedule_is_refused(refuses, make_model):
    refuses(
        r"kl_coef='0\.1' is neither a number nor a schedule with value and update, such as "
        r"textenv\.AdaptiveKL",
        reference=make_model(),
        kl_coef="0.1",
    )


@pytest.mark.parametrize("coefficient", [0.1, AdaptiveKL()], ids=["number", "schedule"])
def test_a_kl_coefficient_without_a_reference_is_refused(coefficient, refuses):
    refuses(r"kl_coef=.* without a reference has no effect: pass reference=", kl_coef=coefficient)


def test_an_unknown_precision_of_the_reference_is_refused(refuses, make_model):
    refuses(
        r"reference_dtype='float64' is unknown: use 'float32', 'bfloat16' or 'float16'",
        reference=make_model(),
        reference_dtype="float64",
    )


# --- as data ------------------------------------------------------------------------------------

PLAIN = {
    "tokenizer": "bundled",
    "prompts": ["a", {"prompt": "b", "answer": 4}],
    "reward": {"length(3)": 1.0, "keyword(sea)": -0.5},
    "max_new_tokens": 3,
    "min_new_tokens": 1,
    "stop": ["\n", 2],
    "max_prompt_tokens": 9,
    "chat": False,
    "reference": "bundled",
    "reference_dtype": "bfloat16",
    "kl_coef": {"target": 3.0, "horizon": 500, "initial": 0.1},
    "no_stop_penalty": 0.5,
    "respond": "builtins:ascii",
    "max_turns": 2,
    "max_turn_tokens": 2,
    "max_reply_tokens": 5,
    "legal_tokens": ["a", 3],
    "reward_timeout": 9.0,
    "reward_retries": 2,
}


def test_plain_arguments_are_data_and_make_the_task_anew():
    data, live = TextGenEnv(**PLAIN).task.as_data()
    assert data == PLAIN and live == []
    again = TextGenEnv(**json.loads(json.dumps(data)))
    assert again.task.as_data() == (PLAIN, [])
    assert again.task.reward.name == "1*length(3) + -0.5*keyword(sea)"


def test_a_schedule_is_data_and_live_objects_are_named(make_small, make_model, tokenizer):
    env = make_small(reference=make_model(), kl_coef=AdaptiveKL(target=3, initial=0.1))
    data, live = env.task.as_data()
    assert data == {
        "prompts": ["ab", "longer"],
        "max_new_tokens": 3,
        "min_new_tokens": 0,
        "stop": None,
        "max_prompt_tokens": None,
        "chat": False,
        "reference_dtype": "float32",
        "kl_coef": {"target": 3, "horizon": 10_000, "initial": 0.1},
        "no_stop_penalty": 0.0,
        "respond": None,
        "max_turns": 4,
        "max_turn_tokens": None,
        "max_reply_tokens": 32,
        "legal_tokens": None,
        "reward_timeout": None,
        "reward_retries": 0,
    }
    assert sorted(live) == ["reference", "reward", "tokenizer"]
    assert env.task.arguments["tokenizer"] is tokenizer


def test_a_live_object_inside_of_data_is_live(make_small):
    def reward(episodes):
        return [0.0] * len(episodes)

    prompts = [{"prompt": "a", "data": object()}]
    _, live = make_small(reward=[(reward, 1.0)], prompts=prompts).task.as_data()
    assert sorted(live) == ["prompts", "reward", "tokenizer"]


def test_shared_arguments_are_taken_out_of_their_holders(make_small, make_model):
    model = make_model()
    env = make_small(reference=Shared(model), kl_coef=Shared(0.5), prompts=Shared(["x"]))
    assert env.task.reference is model and env.task.arguments["kl_coef"] == 0.5
    data, _ = env.task.as_data()
    assert (data["prompts"], data["kl_coef"]) == (["x"], 0.5)
