"""Bad input gets one sentence that names the argument, the value and the mend."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from textenv import AdaptiveKL, RewardError, TextGenEnv, TextGenVectorEnv


def ones(episodes):
    return [1.0] * len(episodes)


@pytest.fixture
def make(tokenizer):
    """A vector environment of two rows, and with ``num_envs=None`` the single one."""

    def make(num_envs: int | None = 2, **changes):
        arguments = {
            "tokenizer": tokenizer,
            "prompts": ["ab", "longer"],
            "reward": ones,
            "max_new_tokens": 3,
            **changes,
        }
        return (
            TextGenEnv(**arguments) if num_envs is None else TextGenVectorEnv(num_envs, **arguments)
        )

    return make


@pytest.fixture
def refuses(make):
    """Construction fails, in both environments unless only one has the argument."""

    def check(match: str, *, single: bool = True, **arguments):
        for num_envs in (2, None) if single else (2,):
            with pytest.raises(ValueError, match=match):
                make(num_envs, **arguments)

    return check


def run_out(env, num_envs=2):
    """Drive a vector environment until every budget is spent."""
    env.reset(seed=0)
    for _ in range(3):
        result = env.step(np.full(num_envs, 50))
    return result


# --- construction -------------------------------------------------------------------------------


def test_an_unknown_reward_is_refused_with_near_names(refuses):
    refuses(
        r"reward='sentimant' is unknown: did you mean 'sentiment'\? Use one of haiku, keyword, ",
        reward="sentimant",
    )


def test_a_reward_of_a_wrong_type_is_refused(make):
    with pytest.raises(TypeError, match=r"reward=7 is a int: pass a callable, a name, "):
        make(reward=7)


def test_an_empty_list_of_prompts_is_refused(refuses):
    refuses(r"prompts is empty: give at least one prompt", prompts=[])


def test_a_prompt_without_tokens_is_refused(refuses):
    refuses(
        r"prompts\[1\] is '', which has no token: this tokenizer has no beginning-of-sequence",
        prompts=["a", ""],
    )


def test_a_prompt_that_is_too_long_is_refused(make, refuses):
    refuses(
        r"prompts\[1\] has 6 tokens, more than max_prompt_tokens=5: shorten it \('longer'\.\.\.\) "
        r"or raise the limit",
        max_prompt_tokens=5,
    )
    assert make(max_prompt_tokens=6).max_length == 9


def test_an_episode_longer_than_the_references_context_is_refused(refuses, make, make_model):
    make(reference=make_model(), max_new_tokens=58)
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


def test_a_reference_that_does_not_exist_is_refused(make):
    with pytest.raises(FileNotFoundError, match=r"No model folder at './nowhere': give a folder"):
        make(reference="./nowhere")


def test_budgets_that_leave_no_room_are_refused(refuses):
    refuses(r"max_new_tokens=0 must be at least 1", max_new_tokens=0)
    refuses(r"min_new_tokens=4 must be between 0 and max_new_tokens=3", min_new_tokens=4)
    refuses(r"min_new_tokens=-1 must be between 0 and", min_new_tokens=-1)


@pytest.mark.parametrize("stop", [259, -1, "", [""], [1.5], [None]])
def test_a_stop_that_is_neither_string_nor_token_is_refused(stop, refuses):
    entry = stop[0] if isinstance(stop, list) else stop
    refuses(
        rf"stop contains {entry!r}: give strings that are not empty, or token ids from 0 to 258",
        stop=stop,
    )


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
    refuses(r"kl_coef=.* without a reference shapes nothing: pass reference=", kl_coef=coefficient)


def test_an_unknown_kl_estimator_is_refused(refuses, make_model):
    refuses(
        r"kl_estimator='k4' is unknown: use one of k1, k2, k3, exact",
        reference=make_model(),
        kl_estimator="k4",
    )


@pytest.mark.parametrize("arguments", [{"target": 0}, {"horizon": -1}, {"initial": 0}])
def test_a_schedule_that_cannot_work_is_refused(arguments):
    with pytest.raises(ValueError, match=r"AdaptiveKL\(target=.*\): all three must be above 0"):
        AdaptiveKL(**arguments)


def test_rows_that_do_not_divide_into_groups_are_refused(make):
    with pytest.raises(
        ValueError, match=r"num_envs=4 must be a multiple of group_size=3, both at least 1"
    ):
        make(4, group_size=3)
    with pytest.raises(ValueError, match=r"num_envs=0 must be a multiple"):
        make(0)


def test_unknown_ways_of_driving_are_refused(refuses):
    refuses(r"scoring='steps' must be 'step' or 'batch'", single=False, scoring="steps")
    refuses(r"array='jax' must be 'numpy' or 'torch'", single=False, array="jax")
    refuses(
        r"autoreset_mode='never' is unknown: use one of 'NEXT_STEP', 'SAME_STEP', 'DISABLED'",
        single=False,
        autoreset_mode="never",
    )


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_batch_scoring_with_autoreset_is_refused(mode, refuses):
    refuses(
        rf"scoring='batch' needs autoreset_mode=AutoresetMode.DISABLED, .* this is '{mode.value}'",
        single=False,
        autoreset_mode=mode,
        scoring="batch",
    )


@pytest.mark.parametrize("mode", ["disabled", "DISABLED", "Disabled", AutoresetMode.DISABLED])
def test_a_mode_may_be_written_as_a_string(mode, make):
    assert make(autoreset_mode=mode).metadata["autoreset_mode"] is AutoresetMode.DISABLED


# --- driving ------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_step_before_reset_is_refused(array, make):
    with pytest.raises(gym.error.ResetNeeded, match=r"Call reset\(\) before step\(\)"):
        make(array=array).step(np.zeros(2, np.int64))
    with pytest.raises(gym.error.ResetNeeded, match=r"Call reset\(\) before step\(\)"):
        make(None).step(0)


@pytest.mark.parametrize("array", ["numpy", "torch"])
@pytest.mark.parametrize("token", [-1, 259])
def test_a_token_out_of_range_is_refused(token, array, make):
    env = make(array=array)
    env.reset()
    with pytest.raises(
        ValueError,
        match=rf"actions contain the token id {token}, but the vocabulary has the ids 0 to 258",
    ):
        env.step(np.array([5, token]))


@pytest.mark.parametrize("array", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", [np.float32, np.bool_])
def test_tokens_that_are_no_integers_are_refused(array, dtype, make):
    env = make(array=array)
    env.reset()
    with pytest.raises(ValueError, match=r"actions have the dtype .*: token ids are integers"):
        env.step(np.ones(2, dtype))


@pytest.mark.parametrize("array", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("actions", "shape"), [([1], r"\(1,\)"), ([[1], [2]], r"\(2, 1\)"), (5, r"\(\)")]
)
def test_a_wrong_batch_size_is_refused(actions, shape, array, make):
    env = make(array=array)
    env.reset()
    with pytest.raises(
        ValueError,
        match=rf"actions have the shape {shape}, but this environment has 2 rows: give one token",
    ):
        env.step(actions)


def test_a_refused_action_leaves_the_episode_as_it_was(make):
    env = make()
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=r"token id 259"):
        env.step(np.array([5, 259]))
    after, *_ = env.step(np.array([5, 6]))
    assert (after["attention_mask"].sum(1) == before["attention_mask"].sum(1) + 1).all()


@pytest.mark.parametrize("action", [1.0, True, np.array([1]), None, "a"])
def test_the_single_environment_takes_one_whole_number(action, make):
    env = make(None)
    env.reset()
    with pytest.raises(ValueError, match=r"action=.* must be one token id, an integer"):
        env.step(action)


@pytest.mark.parametrize("action", [-1, 259])
def test_the_single_environment_refuses_tokens_out_of_range(action, make):
    env = make(None)
    env.reset()
    with pytest.raises(ValueError, match=rf"the token id {action}, but the vocabulary has the ids"):
        env.step(action)


@pytest.mark.parametrize("scoring", ["step", "batch"])
def test_rows_that_have_ended_are_not_stepped_without_autoreset(scoring, make):
    env = make(autoreset_mode="DISABLED", scoring=scoring)
    run_out(env)
    with pytest.raises(
        gym.error.ResetNeeded,
        match=r"The episodes of rows \[0, 1\] have ended and nothing has reset them: call "
        r"reset\(\), or reset\(options=\{'reset_mask': mask\}\)",
    ):
        env.step(np.array([5, 6]))


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_a_reset_of_some_ended_rows_does_not_let_the_others_go_on(array, make):
    env = make(3, autoreset_mode="DISABLED", array=array)
    env.reset()
    env.step(np.array([0, 0, 50]))  # rows 0 and 1 stop
    env.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(gym.error.ResetNeeded, match=r"The episodes of rows \[1\] have ended"):
        env.step(np.array([50, 50, 50]))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    env.step(np.array([50, 50, 50]))


def test_the_single_environment_does_not_go_on_after_the_end(make):
    env = make(None)
    env.reset()
    env.step(0)
    with pytest.raises(gym.error.ResetNeeded, match=r"have ended .*: call reset\(\)"):
        env.step(5)


@pytest.mark.parametrize("mask", [np.ones(3, np.bool_), np.ones(2), [1, 0]])
def test_a_mask_of_a_wrong_shape_or_type_is_refused(mask, make):
    env = make()
    env.reset()
    with pytest.raises(
        ValueError, match=r"options\['reset_mask'\] must be a bool array of the shape \(2,\)"
    ):
        env.reset(options={"reset_mask": mask})


def test_a_mask_of_no_rows_is_refused(make):
    env = make()
    env.reset()
    with pytest.raises(ValueError, match=r"options\['reset_mask'\] must name at least one row"):
        env.reset(options={"reset_mask": np.zeros(2, np.bool_)})


def test_the_first_reset_must_be_of_all_rows(make):
    with pytest.raises(
        ValueError, match=r"The first reset must be of all rows, with no reset_mask"
    ):
        make().reset(options={"reset_mask": np.array([True, False])})


def test_batch_scoring_begins_all_rows_together(make):
    env = make(autoreset_mode="DISABLED", scoring="batch")
    env.reset()
    with pytest.raises(ValueError, match=r"With scoring='batch' all rows begin together"):
        env.reset(options={"reset_mask": np.array([True, False])})


def test_seeds_of_a_wrong_number_are_refused(make):
    with pytest.raises(ValueError, match=r"seed has 3 entries for 2 rows: give one int, or one"):
        make().reset(seed=[1, 2, 3])


@pytest.mark.parametrize("index", [[0, 2], [0, -1], [0], [0.0, 1.0]])
def test_prompts_that_are_not_there_are_refused(index, make):
    with pytest.raises(
        ValueError,
        match=r"options\['prompt_index'\]=.* must be 2 whole numbers from 0 to 1, one a row",
    ):
        make().reset(options={"prompt_index": np.array(index)})


# --- rewards ------------------------------------------------------------------------------------


@pytest.mark.parametrize("driving", [{}, {"autoreset_mode": "DISABLED", "scoring": "batch"}])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            [1.0, float("nan")],
            r"reward 'odd' scored episode 1 with nan, which is not a finite real",
        ),
        (
            [float("inf"), 1.0],
            r"reward 'odd' scored episode 0 with inf, which is not a finite real",
        ),
        ([1.0, None], r"scored episode 1 with None, which is not a finite real .* response 'QQQ'"),
        ([1.0], r"reward 'odd' answered with 1 scores for 2 episodes: return 2 numbers"),
        (1.0, r"reward 'odd' answered with 1\.0, a float: return 2 numbers"),
        (torch.ones(2, 1), r"reward 'odd' answered with the shape \(2, 1\): return 2 numbers"),
        (torch.tensor(1.0), r"reward 'odd' answered with the shape \(\): return 2 numbers"),
    ],
    ids=["nan", "inf", "None", "count", "number", "matrix", "scalar"],
)
def test_an_answer_that_is_not_one_number_an_episode_is_refused(driving, answer, message, make):
    def odd(episodes):
        return answer

    with pytest.raises(RewardError, match=message):
        run_out(make(reward=odd, **driving))


@pytest.mark.parametrize("num_envs", [2, None])
def test_what_a_reward_raises_is_told_with_its_cause(num_envs, make):
    def broken(prompt, response):
        return {}["missing"]

    env = make(num_envs, reward=broken)
    with pytest.raises(
        RewardError,
        match=r"reward 'broken' raised KeyError: 'missing'; it was given episode 0, with prompt "
        r"'(ab|longer)' and response 'QQQ'",
    ) as raised:
        if num_envs is None:
            env.reset()
            for _ in range(3):
                env.step(50)
        else:
            run_out(env)
    assert isinstance(raised.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "driving",
    [{"autoreset_mode": mode} for mode in AutoresetMode]
    + [{"autoreset_mode": AutoresetMode.DISABLED, "scoring": "batch"}],
)
def test_an_episode_whose_reward_failed_does_not_go_on_in_silence(driving, make):
    calls = []

    def fails_once(episodes):
        calls.append(len(episodes))
        return [1.0 / (len(calls) - 1)] * len(episodes)

    env = make(reward=fails_once, **driving)
    with pytest.raises(RewardError, match=r"raised ZeroDivisionError"):
        run_out(env)
    if driving["autoreset_mode"] == AutoresetMode.NEXT_STEP:
        *_, infos = env.step(np.array([50, 50]))
        assert infos["_prompt"].all() and infos["prompt"][0] in ("ab", "longer")
    else:
        with pytest.raises(gym.error.ResetNeeded, match=r"rows \[0, 1\] have ended"):
            env.step(np.array([50, 50]))
        run_out(env)
    assert calls[0] == 2


# --- shaping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("driving", [{}, {"autoreset_mode": "DISABLED", "scoring": "batch"}])
def test_shaping_without_a_bound_policy_is_refused_at_the_first_step(driving, make, make_model):
    env = make(reference=make_model(), kl_coef=0.1, **driving)
    env.reset()
    with pytest.raises(
        RuntimeError,
        match=r"KL shaping \(kl_coef > 0\) needs the policy's log-probabilities: call "
        r"env\.unwrapped\.bind\(policy\) once",
    ):
        env.step(np.array([50, 50]))


class Bound:
    def __init__(self, rows):
        self.last_log_probs = torch.zeros(rows)


def test_a_policy_that_acted_on_other_rows_is_refused(make, make_model):
    env = make(reference=make_model(), kl_coef=0.1)
    env.bind(Bound(3))
    env.reset()
    with pytest.raises(
        RuntimeError,
        match=r"last_log_probs have the shape \(3,\), but this environment has 2 rows: let the",
    ):
        env.step(np.array([50, 50]))


def test_the_exact_kl_needs_logits(make, make_model):
    env = make(reference=make_model(), kl_coef=0.1, kl_estimator="exact")
    env.bind(Bound(2))
    env.reset()
    with pytest.raises(
        RuntimeError, match=r"kl_estimator='exact' needs a policy that leaves last_logits \[B, V\]"
    ):
        env.step(np.array([50, 50]))
