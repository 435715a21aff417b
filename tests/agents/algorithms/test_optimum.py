"""Every algorithm reaches the optimal return J* on a tiny model, within 1 %.

All responses are listed, so that J* and the return of what was learned are exact: nothing in the
judgement is sampled.
"""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch

import agents
from textenv.optimum import optimum

VOCABULARY, BUDGET, EOS, KL_COEF = 6, 2, 0, 0.3
PROMPTS = ["a", "b c e"]


def responses() -> list[tuple[int, ...]]:
    """Every response: at most two tokens, ended early by the end of sequence."""
    every = {
        tokens[: tokens.index(EOS) + 1 if EOS in tokens else BUDGET]
        for tokens in itertools.product(range(VOCABULARY), repeat=BUDGET)
    }
    return sorted(every)


def score(prompt_length: int, response: tuple[int, ...]) -> float:
    """Arbitrary, different for every response and prompt."""
    weighted = sum(token * (1.3 + 0.7 * i) for i, token in enumerate(response))
    return float(np.sin(weighted + 2.1 * prompt_length))


def reward(episodes) -> list[float]:
    return [score(len(e.prompt_ids), tuple(e.response_ids.tolist())) for e in episodes]


@torch.no_grad()
def listed(model) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each prompt the score and log π of every response, by plain calls of the model."""
    scores, log_probs = [], []
    for prompt in PROMPTS:
        head = [" abcde".index(letter) for letter in prompt.split()]
        scores.append(np.array([score(len(head), response) for response in responses()]))
        every = []
        for response in responses():
            ids = torch.tensor([[*head, *response]])
            logits = model(input_ids=ids).logits[0, len(head) - 1 : -1].double()
            every.append(logits.log_softmax(-1).gather(1, ids[0, len(head) :, None]).sum().item())
        log_probs.append(np.array(every))
    return scores, log_probs


def exact_return(model, reference) -> float:
    """Σ_y π(y) (s(y) − β log π(y)/π_ref(y)), the mean over the prompts."""
    scores, log_probs = listed(model)
    _, of_reference = listed(reference)
    returns = [
        np.exp(own) @ (s - KL_COEF * (own - ref))
        for s, own, ref in zip(scores, log_probs, of_reference, strict=True)
    ]
    return float(np.mean(returns))


LONG = {"learning_rate": 3e-3, "lr_schedule": "linear"}
SETTINGS = {
    "REINFORCE": LONG,
    "ActorCritic": LONG | {"gae_lambda": 1.0, "vf_learning_rate": 1e-2},
    "PPO": LONG | {"gae_lambda": 1.0, "vf_learning_rate": 1e-2, "n_epochs": 2, "batch_size": None},
    "TRPO": {"gae_lambda": 1.0, "target_kl": 0.003, "cg_damping": 0.01, "fisher_rows": None},
    "RLOO": LONG | {"group_size": 8},
    "GRPO": LONG | {"group_size": 8},
}


@pytest.mark.parametrize("name", agents.algorithms.__all__)
def test_every_algorithm_reaches_the_optimum(name, make_tokenizer, make_model):
    kind, settings = getattr(agents, name), SETTINGS[name]
    reference = make_model("llama", VOCABULARY, seed=5)
    scores, log_probs = listed(reference)
    best = optimum(scores, KL_COEF, log_probs)
    grouped = {"group_size": settings["group_size"]} if "group_size" in settings else {}
    envs = gym.make_vec(
        "TextGen-v0", num_envs=128, tokenizer=make_tokenizer(VOCABULARY), prompts=PROMPTS,
        reward=reward, max_new_tokens=BUDGET, reference=reference, kl_coef=KL_COEF, **grouped,
    )  # fmt: skip
    model = make_model("llama", VOCABULARY, seed=5)
    assert exact_return(model, reference) == pytest.approx(best.start, abs=1e-6)
    agent = kind("CausalLMPolicy", envs, policy_kwargs={"model": model}, seed=0, **settings)
    agent.learn(60_000)
    found = exact_return(agent.policy.model, reference)
    assert best.value - best.start > 0.3
    assert best.value - 0.01 * abs(best.value) < found <= best.value
