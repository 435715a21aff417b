"""Reward models: the loss by hand, a rule that can be learned, and what is saved."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from agents.preferences.calibration import agreement, calibration
from agents.preferences.pairs import Preference, as_lines, load_preferences, render, split
from agents.preferences.reward_model import Training, preference_loss, train_reward_model
from textenv.episode import Episode
from textenv.lm.loading import load_tokenizer
from textenv.rewards import resolve_reward

NOTHING = np.zeros(0, np.int64)


@pytest.fixture(scope="module")
def preferences():
    """Whoever writes "good" is preferred, after one of three prompts."""
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(160):
        words = rng.choice(["film", "plot", "cast", "story", "music"], 3)
        prompt = ("The", "This", "A")[number % 3]
        good, bad = (f" {words[0]} is {value} and {words[1]}" for value in ("good", "bad"))
        pairs.append(Preference(prompt, good, bad, {"probability": 1.0}))
    return pairs


@pytest.fixture(scope="module")
def trained(preferences):
    return train_reward_model(preferences, "bundled", n_epochs=2, seed=0)


def test_the_loss_and_its_gradient_by_hand():
    """−log σ(2) = log(1 + e^−2); its derivative by r_chosen is −σ(−2)."""
    chosen = torch.tensor([3.0], requires_grad=True)
    loss = preference_loss(chosen, torch.tensor([1.0]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))
    loss.sum().backward()
    assert chosen.grad.item() == pytest.approx(-1 / (1 + math.exp(2)))


def test_accuracy_and_calibration_by_hand():
    """Confidences 0.5 + ..., in bins of a twentieth; an equal score is wrong."""
    differences = np.array([0.0, math.log(3), -math.log(3), 9.0])
    accuracy = agreement(differences)
    assert accuracy.mean == 0.5 and accuracy.low < 0.5 < accuracy.high
    curve = calibration(differences)
    assert curve.counts.tolist() == [1, 2, 1]
    assert curve.observed.tolist() == [0, 0.5, 1]
    assert curve.predicted == pytest.approx([0.5, 0.75, 1 / (1 + math.exp(-9))])


def test_what_several_people_say_about_a_pair_stays_on_one_side():
    """Each pair three times, also with the other choice."""
    three = [Preference("p", f"a{i}", f"b{i}") for i in range(20) for _ in range(2)]
    three += [Preference("p", f"b{i}", f"a{i}") for i in range(20)]
    for seed in range(20):
        order, count = split(three, 10, np.random.default_rng(seed))
        assert sorted(order) == list(range(60)) and count == 12
        sides = [{three[i].chosen[1:] for i in part} for part in (order[:count], order[count:])]
        assert not sides[0] & sides[1]


def test_the_order_of_single_preferences_is_the_permutation():
    single = [Preference("p", f"a{i}", "b") for i in range(50)]
    order, count = split(single, 7, np.random.default_rng(3))
    assert (order, count) == (np.random.default_rng(3).permutation(50).tolist(), 7)


def test_a_rule_is_learned(trained):
    assert trained.accuracy.mean == 1.0 and trained.ceiling == 1.0
    assert np.mean(trained.losses[-3:]) < 0.2 < trained.losses[0]


def test_what_is_saved_is_a_reward_and_a_classifier(trained, preferences, tmp_path):
    folder = tmp_path / "rm"
    trained.save(folder)
    texts = [(p.prompt, side) for p in preferences for side in (p.chosen, p.rejected)]
    episodes = [Episode(prompt, text, NOTHING, NOTHING, "stop") for prompt, text in texts]
    reward = resolve_reward(str(folder))
    scores = np.array(reward(episodes))
    assert scores == pytest.approx(np.array(trained.reward(episodes)), abs=1e-5)
    assert (scores[::2] > scores[1::2]).mean() > 0.99
    assert abs(scores.mean()) < 0.05 and abs(scores.std() - 1) < 0.05  # a tenth was not seen
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.num_labels == 1 and model.dtype == torch.float32
    inputs = AutoTokenizer.from_pretrained(folder)(["".join(texts[0])], return_tensors="pt")
    logit = model(**inputs).logits.item()
    config = model.config
    assert (logit - config.reward_mean) / config.reward_deviation == pytest.approx(
        scores[0], abs=1e-4
    )
    with pytest.raises(FileExistsError, match="not empty"):
        trained.save(folder)


def test_texts_that_are_read_together_keep_their_places(preferences):
    training = Training(preferences)
    pairs = [(p.prompt, p.prompt + p.chosen * (1 + index)) for index, p in enumerate(preferences)]
    alone = [[training.reward.logits([text]).item() for text in pair] for pair in pairs[:20]]
    assert training.logits(pairs[:20]) == pytest.approx(np.array(alone), abs=1e-4)


def test_the_same_seed_gives_the_same_model(trained, preferences):
    state = torch.random.get_rng_state()
    again = train_reward_model(preferences, "bundled", n_epochs=2, seed=0)
    assert again.losses == trained.losses
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n_epochs": 0}, "n_epochs=0 must be a whole number of at least 1"),
        ({"learning_rate": 0}, "learning_rate=0 must be a number above 0, or None"),
        ({"adam_epsilon": 0}, "adam_epsilon=0 must be a number above 0, or None"),
        ({"batch_size": 1.5}, r"batch_size=1\.5 must be"),
        ({"held_out": 1.0}, r"held_out=1\.0 must be a number from 0 to 1"),
        ({"max_length": 0}, "max_length=0 must be a whole number of at least 1, or None"),
        ({"max_length": 257}, "max_length=257 is more than the model reads: give 256 at most"),
        ({"max_length": 2}, "of 0 preferences leaves 0"),
        ({"held_out": 0.01}, "leaves 2 to measure the accuracy"),
        ({"model": "bundeld"}, "did you mean 'bundled'"),
        ({"device": "gpu"}, "device='gpu' is unknown"),
    ],
)
def test_wrong_arguments(arguments, sentence, preferences, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        train_reward_model(preferences, **arguments)


def test_a_text_that_is_too_long_is_refused_with_its_line_or_left_out(preferences, tmp_path):
    """The bundled model reads 256 tokens; a full stop is one, like the start of the text."""
    long = Preference("A", ".", "." * 255)
    rows = [*preferences[:100], long]
    with pytest.raises(ValueError, match=r"^preferences\[100\] has a text of 257 tokens, and the "):
        train_reward_model(rows)
    (tmp_path / "file.jsonl").write_text("\n" + as_lines(rows))
    loaded = load_preferences(tmp_path / "file.jsonl")
    sentence = r"file.jsonl', line 102, has a text of .* reads 256: .* with max_length=256\.$"
    with pytest.raises(ValueError, match=sentence):
        train_reward_model(loaded)
    training = Training(loaded, max_length=256)
    assert training.left_out == 1
    assert {*training.learned, *training.unseen} == {
        (p.prompt + p.chosen, p.prompt + p.rejected) for p in preferences[:100]
    }


def test_other_pairs_can_measure_the_accuracy(preferences):
    training = Training(preferences[:20], eval_preferences=preferences[20:40])
    for texts, pairs in (
        (training.learned, preferences[:20]),
        (training.unseen, preferences[20:40]),
    ):
        assert texts == [(p.prompt + p.chosen, p.prompt + p.rejected) for p in pairs]
    with pytest.raises(ValueError, match="eval_preferences has 3 to measure the accuracy, and 8"):
        Training(preferences[:20], eval_preferences=preferences[20:23])


def test_it_scores_texts_of_a_model_with_another_tokenizer(trained, tmp_path, tokenizer):
    """The tokenizer of the environment splits texts into letters, that of the reward into words."""
    trained.save(tmp_path / "rm")
    env = gym.make(
        "TextGen-v0", tokenizer=tokenizer, prompts=["a b"], reward=str(tmp_path / "rm"),
        max_new_tokens=2,
    )  # fmt: skip
    env.reset(seed=0)
    env.step(tokenizer.convert_tokens_to_ids("c"))
    *_, info = env.step(tokenizer.convert_tokens_to_ids("a"))
    episode = Episode("a b", info["response"], NOTHING, NOTHING, "length")
    assert info["score"] == pytest.approx(trained.reward([episode])[0], abs=1e-5)


def test_conversations_need_a_chat_template():
    user, one, other = (
        {"role": role, "content": text}
        for role, text in (("user", "Hi"), ("assistant", "a"), ("assistant", "b"))
    )
    talk = Preference((user,), (one,), (other,))
    with pytest.raises(ValueError, match="no chat template"):
        train_reward_model(
            [Preference((user | {"content": str(i)},), (one,), (other,)) for i in range(100)]
        )
    tokenizer = load_tokenizer("bundled")
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.content }}>{% endfor %}"
        "{% if add_generation_prompt %}!{% endif %}"
    )
    assert render(talk, tokenizer) == ("<Hi><a>", "<Hi><b>")  # with the end of the turn
