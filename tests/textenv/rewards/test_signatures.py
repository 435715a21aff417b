"""Reward functions of TRL are called with the lists that TRL gives them."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from textenv import TextGenVectorEnv
from textenv.episode import Episode
from textenv.rewards import RewardError, resolve_reward, score_episodes

QUESTION = [{"role": "user", "content": "2 + 2?"}]


@pytest.fixture
def make_episode():
    """An episode of three tokens."""

    def make(response="four", prompt="2 + 2?", ids=(7, 8, 0), **data):
        return Episode(prompt, response, np.array([1, 2]), np.array(ids), "stop", data)

    return make


@pytest.fixture
def texts(make_episode):
    """Two episodes that begin with plain texts."""
    return [
        make_episode("four", answer="four", level=1),
        make_episode("six", "1 + 4?", (9, 0), answer="five", level=2),
    ]


def as_conversation(episode):
    return Episode(
        "<user>2 + 2?<assistant>",
        episode.response,
        episode.prompt_ids,
        episode.response_ids,
        episode.finish_reason,
        {**episode.data, "prompt": QUESTION},
    )


class Recorder:
    """A function with all keywords, as an object."""

    def __call__(self, completions, **keywords):
        self.completions, self.keywords = completions, keywords
        return [1.0] * len(completions)

    def of_ids(self, completion_ids):
        return [len(ids) for ids in completion_ids]


def test_all_keywords_of_plain_texts(texts):
    reward = Recorder()
    resolved = resolve_reward(reward)
    assert resolved.name == "Recorder"
    assert score_episodes(resolved, texts).tolist() == [1.0, 1.0]
    assert reward.completions == ["four", "six"]
    log_extra, log_metric = reward.keywords.pop("log_extra"), reward.keywords.pop("log_metric")
    assert log_extra("answer", []) is None and log_metric("mean", 0.5) is None
    assert reward.keywords == {
        "prompts": ["2 + 2?", "1 + 4?"],
        "completion_ids": [[7, 8, 0], [9, 0]],
        "answer": ["four", "five"],
        "level": [1, 2],
        "trainer_state": None,
    }
    assert type(reward.keywords["completion_ids"][0][0]) is int


def test_conversations_are_lists_of_messages(texts):
    reward = Recorder()
    score_episodes(resolve_reward(reward), [as_conversation(texts[0]), texts[1]])
    assert reward.completions == [[{"role": "assistant", "content": "four"}], "six"]
    assert reward.keywords["prompts"] == [QUESTION, "1 + 4?"]
    assert "prompt" not in reward.keywords
    assert reward.keywords["answer"] == ["four", "five"]


def test_a_reward_may_change_the_messages_it_is_given(texts):
    def changes(prompts, completions):
        prompts[0][0]["content"] = "changed"
        prompts[0].append({})
        return [0.0]

    score_episodes(resolve_reward(changes), [as_conversation(texts[0])])
    assert QUESTION == [{"role": "user", "content": "2 + 2?"}]


def correct(prompts, completions, answer):
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]


def scaled(completions, scale, *, answer, offset=0.5, **others):
    return [scale * score + offset for score in correct([], completions, answer)]


@pytest.mark.parametrize(
    ("function", "scores"),
    [
        (correct, [1.0, 0.0]),
        (lambda completions: [len(text) for text in completions], [4.0, 3.0]),
        (lambda completions, level=None: level, [1.0, 2.0]),
        (lambda completions, length=(5, 6): length, [5.0, 6.0]),
        (lambda completion_ids, **columns: [len(ids) for ids in completion_ids], [3.0, 2.0]),
        (lambda *, completions, level: np.array(level) * 2, [2.0, 4.0]),
        (lambda completions, trainer_state, log_metric, level: level, [1.0, 2.0]),
        (functools.partial(scaled, scale=3.0), [3.5, 0.5]),
        (functools.partial(scaled, scale=3.0, offset=0.0), [3.0, 0.0]),
        (Recorder().of_ids, [3.0, 2.0]),
    ],
)
def test_parameters_are_given_by_their_names(function, scores, texts):
    assert score_episodes(resolve_reward(function), texts).tolist() == scores


@pytest.mark.parametrize(
    "function",
    [lambda prompt, response: 2.0, lambda episodes: [2.0, 2.0], lambda prompts: [2.0, 2.0]],
)
def test_other_names_are_other_signatures(function, texts):
    assert score_episodes(resolve_reward(function), texts).tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("function", "scores"),
    [
        (lambda prompt, response: len(prompt) - len(response), [2, 3]),
        (lambda response, prompt: len(prompt) - len(response), [2, 3]),
        (lambda r, p: len(p) - len(r), [2, 3]),
        (lambda _, response: len(response), [4, 3]),
        (lambda completion, answer: float(completion == answer), [1, 0]),
        (lambda text, answer: float(text == answer), [1, 0]),
        (lambda answer, output: float(output == answer), [1, 0]),
        (lambda response, *, level: level * len(response), [4, 6]),
        (lambda prompt, response, answer: len(prompt + response + answer), [14, 13]),
        (lambda question, reply: len(question + reply), [10, 9]),
        (lambda response: len(response), [4, 3]),
        (lambda response, prompt="none", answer="none": len(prompt + answer), [8, 8]),
    ],
)
def test_the_names_of_the_parameters_decide(function, scores, texts):
    assert score_episodes(resolve_reward(function), texts).tolist() == scores


def test_a_column_is_meant_before_the_prompt(make_episode):
    episode = make_episode(question="Why?")
    asked = resolve_reward(lambda question, response: float(question == "Why?"))
    assert score_episodes(asked, [episode]) == [1]


@pytest.mark.parametrize(
    "function",
    [lambda a, b: 0.0, lambda prompt, answer: 0.0, lambda text, response: 0.0, lambda x, y, z: 0.0],
)
def test_names_that_say_nothing_are_refused(function):
    with pytest.raises(TypeError, match=r"These names do not say which one is the response"):
        resolve_reward(function)


NO_ANSWER = "the prompt's row has no column 'answer'"


@pytest.mark.parametrize(
    ("reward", "rows", "message"),
    [
        (correct, [{"answer": "4"}, {"level": 1}], r"prompts\[1\] .*'correct': .*\['level'\]"),
        (lambda text, answer: 0.0, [{}], r"prompts\[0\] .*'<lambda>': .* parameter 'answer'"),
        ("last_number", [{"answer": 4}, {"answer": "four"}], r"prompts\[1\] .*_number': .*'four'"),
        ({"last_word": 1, "length": 2}, [{"answer": "4"}], r"prompts\[0\] .*'last_word': .*'4'"),
        ("countdown", [{"numbers": [3], "target": "x"}], r"prompts\[0\] .*'countdown': .*'x'"),
        ("last_number", [{}], rf"prompts\[0\] .*'last_number': {NO_ANSWER}"),
    ],
)
def test_columns_are_checked_when_the_environment_is_made(reward, rows, message):
    """All rows, and not only the one that is drawn first."""
    prompts = [{"prompt": "One", **row} for row in rows]
    with pytest.raises(ValueError, match=message):
        TextGenVectorEnv(2, prompts=prompts, reward=reward)


def test_a_column_that_only_some_rows_have_is_none_in_the_others(make_episode):
    reward = Recorder()
    score_episodes(resolve_reward(reward), [make_episode(hint="small"), make_episode(level=2)])
    assert reward.keywords["hint"] == ["small", None]
    assert reward.keywords["level"] == [None, 2]


def test_columns_named_as_trl_names_its_lists_are_hidden_by_them(make_episode):
    reward = Recorder()
    columns = {"prompts": 1, "completions": 2, "completion": 3, "completion_ids": 4}
    score_episodes(resolve_reward(reward), [make_episode(**columns)])
    assert reward.completions == ["four"]
    assert reward.keywords["prompts"] == ["2 + 2?"]
    assert reward.keywords["completion_ids"] == [[7, 8, 0]]
    assert "completion" not in reward.keywords


def test_a_missing_column_is_refused(texts, make_episode):
    with pytest.raises(
        RewardError,
        match=r"^reward 'correct' has the parameter 'answer', but the prompt of episode 2 has no "
        r"such column, only \['level'\]: add the column to the prompts, or give the parameter a "
        r"default\.$",
    ):
        score_episodes(resolve_reward(correct), [*texts, make_episode(level=3)])


def test_none_is_refused_also_in_a_sum(texts):
    def sometimes(completions, **columns):
        return [1.0, None]

    for reward in (sometimes, {sometimes: 1.0, "length": 0.5}):
        with pytest.raises(
            RewardError,
            match=r"^reward 'sometimes' scored episode 1 with None, 'not applicable', but an "
            r"episode needs a number: return 0\.0 for it; it has prompt '1 \+ 4\?' and response "
            r"'six'\.$",
        ):
            score_episodes(resolve_reward(reward), texts)


def test_a_reward_of_messages_is_told_how_to_get_them(texts):
    def first(completions, **columns):
        return [len(completion[0]["content"]) for completion in completions]

    with pytest.raises(
        RewardError,
        match=r"^reward 'first' raised TypeError: string indices must be integers.*; it was given "
        r"2 completions as texts, the first with prompt '2 \+ 2\?' and response 'four': if it "
        r"reads messages, make the prompts conversations, as chat=True does\.$",
    ) as caught:
        score_episodes(resolve_reward(first), texts)
    assert isinstance(caught.value.__cause__, TypeError)
    episodes = [as_conversation(episode) for episode in texts]
    assert score_episodes(resolve_reward(first), episodes).tolist() == [4.0, 3.0]


def test_another_error_shows_the_first_episode(texts):
    def broken(completions, **columns):
        return columns["no such column"]

    with pytest.raises(
        RewardError,
        match=r"^reward 'broken' raised KeyError: 'no such column'; it was given 2 episodes, the "
        r"first with prompt '2 \+ 2\?' and response 'four'\.$",
    ):
        score_episodes(resolve_reward(broken), texts)


@pytest.mark.parametrize("answer", [[1.0], [1.0, 2.0, 3.0], [1.0, "2"], None])
def test_the_answer_is_checked_as_that_of_any_reward(answer, texts):
    with pytest.raises(RewardError, match=r"^reward 'odd' (answered with|scored episode 1)"):

        def odd(completions):
            return answer

        score_episodes(resolve_reward(odd), texts)


async def waits(completions, **columns):
    return [0.0 for _ in completions]


class Waits:
    async def __call__(self, completions):
        return [0.0 for _ in completions]


@pytest.mark.parametrize(
    ("function", "name"),
    [(waits, "waits"), (functools.partial(waits), "waits"), (Waits(), "Waits")],
)
def test_an_asynchronous_reward_is_refused(function, name):
    with pytest.raises(
        TypeError,
        match=rf"^reward '{name}' is asynchronous: wrap it in a function that calls "
        r"asyncio\.run\.$",
    ):
        resolve_reward(function)


# --- TRL's own ----------------------------------------------------------------------------------


def test_the_format_reward_of_trl(texts, make_episode):
    rewards = pytest.importorskip("trl.rewards")
    good, bad = make_episode("<think>\nWhy?\n</think>\n4"), make_episode("<think>\nWhy?\n4")
    reward = resolve_reward(rewards.think_format_reward)
    assert reward.name == "think_format_reward"
    assert score_episodes(reward, [as_conversation(e) for e in (good, bad)]).tolist() == [1.0, 0.0]
    assert resolve_reward("trl.rewards:think_format_reward").name == (
        "trl.rewards:think_format_reward"
    )
    with pytest.raises(RewardError, match=r"make the prompts conversations, as chat=True does\.$"):
        score_episodes(reward, texts)


def test_the_length_penalty_of_trl(make_episode):
    rewards = pytest.importorskip("trl.rewards")
    # From 4 - 2 tokens on, each token costs 1 / 2; beyond 4 tokens the penalty is -1.
    reward = resolve_reward(rewards.get_soft_overlong_punishment(4, 2))
    assert reward.name == "soft_overlong_punishment_reward"
    episodes = [make_episode(ids=range(length)) for length in (2, 3, 4, 5)]
    assert score_episodes(reward, episodes).tolist() == [0.0, -0.5, -1.0, -1.0]


def test_the_repetition_penalty_of_trl(make_episode):
    rewards = pytest.importorskip("trl.rewards")
    # The four pairs of [5, 5, 5, 5, 5] are one: (1 - 1 / 4) * -1.
    reward = resolve_reward(rewards.get_repetition_penalty_reward(2, -1.0))
    episodes = [make_episode(ids=[5] * 5), make_episode(ids=[1, 2, 3])]
    assert score_episodes(reward, episodes).tolist() == [-0.75, 0.0]


def test_it_scores_episodes_of_an_environment(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %} it"
    reward = Recorder()
    envs = TextGenVectorEnv(
        2,
        tokenizer=tokenizer,
        prompts=[{"prompt": "write", "answer": "good"}],
        chat=True,
        reward=reward,
        max_new_tokens=1,
    )
    envs.reset(seed=0)
    _, rewards, terminated, _, _ = envs.step(np.array([3, 4]))  # "good" and "bad"
    assert rewards.tolist() == [1.0, 1.0] and terminated.all()
    assert reward.completions == [
        [{"role": "assistant", "content": " good"}],
        [{"role": "assistant", "content": " bad"}],
    ]
    assert reward.keywords["prompts"] == [[{"role": "user", "content": "write"}]] * 2
    assert reward.keywords["answer"] == ["good", "good"]
    assert reward.keywords["completion_ids"] == [[3], [4]]
