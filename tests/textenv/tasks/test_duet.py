"""Duet-v0: the partner finishes sentences, and is paid by what it writes alone."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from textenv.lm import load_model, load_tokenizer
from textenv.rewards.library.sentiment_reward import sentiment_of
from textenv.tasks import duet


@torch.no_grad()
def by_hand(text):
    """The end of a sentence by transformers' own forward pass, token by token."""
    model, tokenizer = load_model("bundled"), load_tokenizer("bundled")
    ids = begin = tokenizer(text)["input_ids"]
    for _ in range(duet.PARTNER_TOKENS):
        ids = [*ids, int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids[len(begin) :], skip_special_tokens=True)


def test_the_partner_writes_what_is_likeliest():
    texts = ["The film was", "The plot is a bit", "I", "The film was"]
    assert duet._go_on(texts) == [by_hand(text) for text in texts]
    assert duet._go_on(["The film was great."]) == [""]  # it has ended


def test_each_end_of_a_sentence_is_paid():
    envs = gym.make_vec("Duet-v0", num_envs=4, scoring="batch", autoreset_mode="DISABLED")
    envs.reset(seed=0)
    encode = lambda text: envs.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    tokens = (encode(" was a touching and funny") * 3)[: duet.TURN_TOKENS]
    replies, infos = [], {}
    for token in tokens * duet.TURNS:
        *_, infos = envs.step(np.full(4, token))
        replies += [infos["reply"].tolist()] if "reply" in infos else []
    assert infos["turns"].tolist() == [2] * 4
    total = np.zeros(4)
    for row in range(4):
        prompt = envs.prompts[envs.prompt_index[row]]
        for opening, reply in zip(
            (prompt.text, prompt.data["then"]), (texts[row] for texts in replies), strict=True
        ):
            end = by_hand(opening + envs.tokenizer.decode(tokens))
            assert reply == f"{end} {prompt.data['then']}"
            total[row] += sentiment_of(end)
    assert infos["score"].tolist() == pytest.approx(total.tolist())
    assert infos["token_rewards"].sum(1).tolist() == pytest.approx(total.tolist())
