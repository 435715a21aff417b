"""The registered tasks: their environments, their prompts, and their answers."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import permutations, product

import gymnasium as gym
import numpy as np
import pytest

from textenv import TASKS
from textenv.episode import Episode
from textenv.lm import load_tokenizer
from textenv.rewards import resolve_reward, score_episodes
from textenv.rewards.library.haiku_reward import speaks_of
from textenv.sharing import is_data
from textenv.tasks import countdown, digit_sum, haiku, letter_count, word_reversal

GENERATORS = [countdown, digit_sum, letter_count, word_reversal]
PLAIN = {"chat": False}  # the bundled tokenizer has no chat template


@pytest.fixture(params=TASKS, ids=str)
def task(request):
    """Each registered task in turn."""
    return TASKS[request.param]


def loaded_prompts(task, **changes) -> list[str]:
    env = gym.make(task.id, **PLAIN, **changes)
    return [prompt.text for prompt in env.unwrapped.prompts]


def test_one_environment_ends_with_a_score(task):
    env = gym.make(task.id, **PLAIN)
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space and info["prompt"]
    for _ in range(task.max_new_tokens):
        _, _, terminated, truncated, info = env.step(5)
        if terminated:
            break
    assert terminated and not truncated
    assert np.isfinite(info["score"]) and info["response_length"] == task.max_new_tokens


def test_many_environments_step(task):
    envs = gym.make_vec(task.id, num_envs=3, **PLAIN)
    envs.reset(seed=0)
    _, rewards, *_ = envs.step(np.full(3, 5))
    assert rewards.shape == (3,)


def test_arguments_of_the_caller_take_precedence(task):
    env = gym.make(task.id, **PLAIN, max_new_tokens=3, reward="length(2)", prompts=["Now: "])
    assert env.unwrapped.task.max_new_tokens == 3
    assert env.unwrapped.task.reward.name == "length(2)"
    assert env.unwrapped.prompts[0].text == "Now: "


def test_instructions_are_chats_and_the_others_are_not():
    chats = {name for name, task in TASKS.items() if task.chat}
    assert set(TASKS) - chats == {
        "Sentiment-v0",
        "DigitSum-v0",
        "LastWord-v0",
        "FifteenWords-v0",
        "NoisySentiment-v0",
        "GuessNumber-v0",
        "Duet-v0",
        "Calculator-v0",
    }


def test_held_out_prompts_are_none_of_training(task):
    training, held_out = loaded_prompts(task), loaded_prompts(task, prompts=task.held_out)
    assert len(held_out) >= 16
    for prompts in (training, held_out):
        secrets = 10 if task.id == "GuessNumber-v0" else 1  # of each prompt
        assert len(set(prompts)) * secrets == len(prompts)
    assert not set(training) & set(held_out)


def test_the_arguments_are_data_that_json_can_hold(task):
    assert is_data(task.kwargs) and json.loads(json.dumps(task.kwargs)) == task.kwargs
    assert json.loads(json.dumps(task.held_out)) == task.held_out


def test_the_rows_are_the_same_in_another_process():
    code = (
        "import json, textenv\n"
        "print(json.dumps([[t.kwargs, t.held_out] for t in textenv.TASKS.values()]))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(out.stdout) == [[t.kwargs, t.held_out] for t in TASKS.values()]


# --- generators ---------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda module: module.TASK.id)
def test_no_seed_mixes_training_and_held_out_rows(generator):
    training = [row["prompt"] for seed in range(5) for row in generator.rows(15, seed)]
    held_out = [row["prompt"] for seed in range(5) for row in generator.rows(15, seed, True)]
    assert len(set(training)) > 15 and not set(training) & set(held_out)
    assert generator.rows(9, 1) == generator.rows(9, 1) != generator.rows(9, 2)


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda module: module.TASK.id)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size=0 must be a whole number of at least 1"),
        ({"size": 2.5}, "size=2.5 must be a whole number"),
        ({"seed": -1}, "seed=-1 must be a whole number of at least 0"),
        ({"seed": "x"}, "seed='x' must be a whole number"),
    ],
)
def test_bad_arguments_are_refused(generator, arguments, message):
    with pytest.raises(ValueError, match=message):
        generator.rows(**arguments)


def test_more_rows_than_there_are_items_are_refused():
    with pytest.raises(ValueError, match=r"size=91 is too large: only [0-9]+ different rows"):
        digit_sum.rows(91, digits=2)
    with pytest.raises(ValueError, match="digits=1 must be a whole number from 2 to 9"):
        digit_sum.rows(digits=1)
    with pytest.raises(ValueError, match="count=7 must be a whole number from 2 to 6"):
        countdown.rows(count=7)


def score(task, row, response: str) -> float:
    data = {name: value for name, value in row.items() if name != "prompt"}
    episode = Episode(row["prompt"], response, np.arange(2), np.arange(3), "stop", data)
    return score_episodes(resolve_reward(task.reward), [episode])[0]


@pytest.mark.parametrize("generator", GENERATORS[1:], ids=lambda module: module.TASK.id)
def test_right_answers_score_1_and_wrong_ones_0(generator):
    for row in generator.TASK.prompts + generator.TASK.held_out:
        assert score(generator.TASK, row, f"The answer is {row['answer']}.") == 1
        assert score(generator.TASK, row, f"{row['answer']}9, or x{row['answer']}9") == 0
        assert score(generator.TASK, row, row["prompt"]) == 0


def test_answers_worked_out_by_hand():
    for row in digit_sum.rows(40, digits=2) + digit_sum.rows(8, held_out=True, digits=2):
        *worked, question = row["prompt"].splitlines()
        assert worked[1] == "Sum of the digits of 481: 4 + 8 + 1 = 13"
        number = int(question.removeprefix("Sum of the digits of ").removesuffix(":"))
        assert row["answer"] == number // 10 + number % 10
        assert number not in (35, 27)  # of the worked examples
        assert score(digit_sum.TASK, row, f" {number // 10} + {number % 10} = {row['answer']}") == 1
    assert letter_count._row(("pepper", "p"), None)["answer"] == 3
    assert letter_count._row(("car", "z"), None)["answer"] == 0
    assert word_reversal._row("bird", None)["answer"] == "drib"


def test_every_countdown_can_be_won():
    task = countdown.TASK
    for row in task.prompts[:20]:
        assert any(score(task, row, text) == 1 for text in expressions(row["numbers"]))
        assert score(task, row, str(row["target"])) == score(task, row, row["prompt"]) == 0


def expressions(numbers):
    """Every expression of two or three of three numbers, from left to right."""
    for a, b, c in permutations(numbers):
        for first, second in product("+-*", repeat=2):
            yield f"{a} {first} {b}"
            yield f"({a} {first} {b}) {second} {c}"


# --- haiku --------------------------------------------------------------------------------------


def test_haiku_are_about_robots_and_many_other_topics():
    assert sum(row["topic"] == "robots" for row in haiku.rows()) >= 10
    training = {row["topic"] for row in haiku.rows()}
    assert len(training) > 20
    assert training & {row["topic"] for row in haiku.rows(held_out=True)} == {"robots"}


@pytest.mark.parametrize("row", haiku.rows() + haiku.rows(held_out=True), ids=lambda r: r["prompt"])
def test_a_topic_is_in_its_prompt_and_fits_itself(row):
    words = row["prompt"].lower().strip(".?").split()
    assert speaks_of(words, row["topic"])
    assert all(speaks_of([word], row["topic"], row["related"]) for word in row["related"])


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.chat])
def test_a_task_in_conversations_is_named_where_there_is_no_chat_template(name):
    """Nobody gave chat=True."""
    sentence = rf"^{name} asks in conversations\. The tokenizer .*bundled' .*--model smollm2\)"
    for make in (gym.make, lambda name: gym.make_vec(name, num_envs=2)):
        with pytest.raises(ValueError, match=sentence) as error:
            make(name)
        assert "chat=True" not in str(error.value) and "\n" not in str(error.value)
        with pytest.raises(ValueError, match=sentence) as error:
            gym.make(name, tokenizer=load_tokenizer("bundled"))
        assert len(str(error.value)) < 400


def test_with_prompts_of_ones_own_the_way_out_is_named():
    with pytest.raises(ValueError, match=r"prompts\[0\], a text that .* or pass chat=False\.$"):
        gym.make("Haiku-v0", prompts=["A haiku!"])
    assert gym.make("Haiku-v0", prompts=["A haiku!"], chat=False).unwrapped.prompts
