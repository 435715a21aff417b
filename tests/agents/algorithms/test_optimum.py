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
from agents.functional.advantages import group_centered
from textenv.optimum import optimum

VOCABULARY, BUDGET, EOS, KL_COEF = 5, 2, 0, 0.3
PROMPTS = ["a", "b c d"]


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
        head = [" abcd".index(letter) for letter in prompt.split()]
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


# The advantages are not scaled: at the optimum all returns of a prompt are equal, so that scaling
# would enlarge their noise. `group_centered` is the GRPO of Liu et al. 2025.
COMMON = {"learning_rate": 3e-3, "lr_schedule": "linear", "adam_epsilon": 1e-5}
CRITIC = {"gae_lambda": 1.0, "vf_learning_rate": 1e-2}
SETTINGS = {
    "REINFORCE": {**COMMON, "normalize_advantage": False},
    "ActorCritic": {**COMMON, **CRITIC, "normalize_advantage": False},
    "PPO": {**COMMON, **CRITIC, "normalize_advantage": False, "n_epochs": 1, "batch_size": None},
    "TRPO": {
        "gae_lambda": 1.0, "target_kl": 0.005, "cg_damping": 0.01, "lr_schedule": "linear",
        "batch_size": None, "n_critic_updates": 4, "learning_rate": 1e-2,
    },
    "RLOO": {**COMMON, "group_size": 16},
    "GRPO": {**COMMON, "group_size": 16, "advantage_fn": group_centered, "batch_size": None},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", agents.algorithms.__all__)
def test_every_algorithm_reaches_the_optimum(name, make_tokenizer, make_model):
    kind, settings = getattr(agents, name), SETTINGS[name]
    reference = make_model("llama", VOCABULARY, seed=5)
    scores, log_probs = listed(reference)
    best = optimum(scores, KL_COEF, log_probs)
    grouped = {"group_size": settings["group_size"]} if "group_size" in settings else {}
    envs = gym.make_vec(
        "TextGen-v0", num_envs=256, tokenizer=make_tokenizer(VOCABULARY), prompts=PROMPTS,
        reward=reward, max_new_tokens=BUDGET, reference=reference, kl_coef=KL_COEF, **grouped,
    )  # fmt: skip
    model = make_model("llama", VOCABULARY, seed=5)
    assert exact_return(model, reference) == pytest.approx(best.start, abs=1e-6)
    agent = kind("CausalLMPolicy", envs, policy_kwargs={"model": model}, seed=0, **settings)
    agent.learn(200_000)
    found = exact_return(agent.policy.model, reference)
    assert best.value - best.start > 0.5
    assert 0.99 * best.value < found <= best.value


def test_no_return_exceeds_the_optimum_and_that_of_the_reference_is_its_score(make_model):
    reference = make_model("llama", VOCABULARY, seed=5)
    scores, log_probs = listed(reference)
    best = optimum(scores, KL_COEF, log_probs)
    assert exact_return(reference, reference) == pytest.approx(best.start, abs=1e-6)
    for seed in range(3):
        assert exact_return(make_model("llama", VOCABULARY, seed=seed), reference) < best.value
