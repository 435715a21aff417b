"""The gradient that an algorithm descends is the gradient of the expected return, exactly.

All responses of a tiny language model are enumerated and driven through the real environment. The
mean of an algorithm's gradient over them, weighted by their probability, has to be ∇J of

    J = Σ_τ π(τ) · (score(τ) − β · Σ_t log π(a_t|s_t)/π_ref(a_t|s_t)),

whose derivative autograd takes through plain calls of the model. No sampling, no tolerance for
noise: a reward one token off, a mask one token short or a factor of the length fails.
"""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from agents import GRPO, PPO, REINFORCE, RLOO, ActorCritic, CausalLMPolicy, Lookahead
from agents.experience.rollout import Batch, Rollout
from agents.functional.advantages import group_centered
from agents.functional.reductions import Counts, sequence_sum
from agents.policies.distributions import TokenDistribution
from textenv import ActionRecord

VOCABULARY, BUDGET, EOS = 4, 3, 0
PROMPTS = ["a", "b c a"]
PENALTY = 0.7  # for not stopping


def responses() -> list[tuple[int, ...]]:
    """Every response: at most three tokens, ended early by the end of sequence."""
    every = []
    for tokens in itertools.product(range(VOCABULARY), repeat=BUDGET):
        stop = tokens.index(EOS) + 1 if EOS in tokens else BUDGET
        every.append(tokens[:stop])
    return sorted(set(every))


def score(prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    """Arbitrary, different for every response and prompt."""
    weighted = sum(token * (1.3 + 0.7 * i) for i, token in enumerate(response))
    return float(np.sin(weighted + 2.1 * len(prompt)) * 3 - 0.4 * len(response))


def reward(episodes) -> list[float]:
    return [score(tuple(e.prompt_ids), tuple(e.response_ids.tolist())) for e in episodes]


class Scripted(CausalLMPolicy):
    """Says what its script ``[B, T]`` says, with the probabilities of the language model."""

    script: Tensor

    def act(self, observation, state=None, episode_start=None, deterministic=False):
        self.step = 0 if state is None else self.step + 1
        _, _, values, state = super().act(observation, state, episode_start, deterministic)
        actions = self.script[:, self.step]
        lengths = observation["attention_mask"].sum(dim=1)
        with torch.no_grad():
            logits = self.model(input_ids=observation["input_ids"]).logits
        logits = self.sampling.apply(logits[torch.arange(len(lengths)), lengths - 1])
        log_probs = -F.cross_entropy(logits, actions, reduction="none")
        self.action_record = ActionRecord(actions.clone(), log_probs)
        return actions, log_probs, values, state


@pytest.fixture
def enumerated(make_tokenizer, make_model):
    """Makes an agent whose rollout is every response to every prompt, once, or given episodes."""

    def make(kind: type, kl_coef: float, episodes=None, **kwargs):
        episodes = episodes or list(itertools.product(range(len(PROMPTS)), responses()))
        shaping = dict(reference=make_model("llama", VOCABULARY, seed=5), kl_coef=kl_coef)
        envs = gym.make_vec(
            "TextGen-v0", num_envs=len(episodes), tokenizer=make_tokenizer(VOCABULARY),
            prompts=PROMPTS, reward=reward, max_new_tokens=BUDGET, no_stop_penalty=PENALTY,
            group_size=kwargs.get("group_size", 1), **(shaping if kl_coef else {}),
        )  # fmt: skip
        index = np.array([prompt for prompt, _ in episodes])
        reset = envs.reset
        envs.reset = lambda seed, options: reset(seed=seed, options={"prompt_index": index})
        agent = kind(
            Scripted, envs, seed=0,
            policy_kwargs={"model": make_model("llama", VOCABULARY), "temperature": 0.8}, **kwargs,
        )  # fmt: skip
        script = torch.full((len(episodes), BUDGET), 3)  # what ended rows say must not matter
        for row, (_, response) in enumerate(episodes):
            script[row, : len(response)] = torch.tensor(response)
        agent.policy.script = script
        return agent, episodes

    return make


def sequence_log_probs(model, episodes) -> Tensor:
    """Σ_t log π(a_t|s_t) ``[R]`` in float64, by plain calls of the model for responses of one
    length to one prompt, in which nothing is padded."""
    totals = {}
    for prompt, length in {(prompt, len(response)) for prompt, response in episodes}:
        alike = [each for each in episodes if each[0] == prompt and len(each[1]) == length]
        head = [" abc".index(letter) for letter in PROMPTS[prompt].split()]
        ids = torch.tensor([[*head, *response] for _, response in alike])
        logits = model(input_ids=ids).logits[:, -length - 1 : -1].double() / 0.8
        chosen = logits.log_softmax(-1).gather(2, ids[:, -length:, None])
        totals |= zip(alike, chosen.sum(dim=(1, 2)), strict=True)
    return torch.stack([totals[episode] for episode in episodes])


def gradient(loss: Tensor, model) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, model.parameters())])


def exact_gradient(agent, episodes, kl_coef: float) -> tuple[float, Tensor]:
    """J and −∇J, by autograd through the probabilities themselves."""
    log_probs = sequence_log_probs(agent.policy.model, episodes)
    scores = []
    for prompt, response in episodes:
        head = tuple(" abc".index(letter) for letter in PROMPTS[prompt].split())
        scores.append(score(head, response) - PENALTY * (response[-1] != EOS))
    returns = torch.tensor(scores, dtype=torch.float64)
    if kl_coef:
        reference = agent.env.shaping.reference
        returns = returns - kl_coef * (log_probs - sequence_log_probs(reference, episodes))
    expected = (log_probs.exp() * returns).sum() / len(PROMPTS)
    return expected.item(), gradient(-expected, agent.policy.model)


def captured_batch(agent, rollout: Rollout) -> Batch:
    """The batch that an update would descend on."""
    captured = []

    def noting(batch, stop):
        captured.append(batch)
        return {"approx_kl": 0.0}, True

    agent.optimizer_step = noting
    agent.update(rollout)
    (batch,) = captured
    return batch


def expected_gradient(agent, rollout: Rollout) -> Tensor:
    """Σ_τ π(τ) · ∇loss(τ), each episode's loss summed over its steps."""
    batch = captured_batch(agent, rollout)
    weights = rollout.log_probs.sum(dim=1).exp() / len(PROMPTS)
    assert_close(weights.sum(), torch.tensor(1.0))
    total = 0.0
    for row, weight in enumerate(weights):
        # Counts of 1 leave the sum over steps as it is, whichever reduction the page uses.
        episode = batch.take(torch.tensor([row]), Counts(steps=1, episodes=1))
        total = total + weight * agent.loss(episode)
    return gradient(total, agent.policy.model)


PLAIN = dict(normalize_advantage=False)
ALGORITHMS = {
    "whole return": (REINFORCE, {"return_to_go": False, "baseline_momentum": None, **PLAIN}),
    "return to go": (REINFORCE, {"return_to_go": True, "baseline_momentum": None, **PLAIN}),
    "actor-critic, λ = 1": (ActorCritic, {"gae_lambda": 1.0, "vf_coef": 0.0, **PLAIN}),
    "ppo at ratio 1, λ = 1": (
        PPO,
        {"gae_lambda": 1.0, "vf_coef": 0.0, "n_epochs": 1, "batch_size": None, **PLAIN},
    ),
}


@pytest.mark.parametrize("kl_coef", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
@pytest.mark.parametrize(("kind", "kwargs"), ALGORITHMS.values(), ids=ALGORITHMS)
def test_the_expected_gradient_is_the_gradient_of_the_expected_return(
    kind, kwargs, kl_coef, enumerated
):
    agent, episodes = enumerated(kind, kl_coef, **kwargs)
    rollout = agent.collect()
    objective, exact = exact_gradient(agent, episodes, kl_coef)
    weights = rollout.log_probs.sum(dim=1).exp() / len(PROMPTS)
    assert (weights * rollout.rewards.sum(dim=1)).sum() == pytest.approx(objective, rel=1e-5)
    expected = expected_gradient(agent, rollout)
    assert exact.norm() > 0.1
    assert (expected - exact).norm() / exact.norm() < 1e-5


GROUPED = {
    "rloo": (RLOO, {}, 1.0),
    # A mean that includes the answer itself shrinks the gradient by (G − 1) / G.
    "dr. grpo": (
        GRPO,
        {"advantage_fn": group_centered, "reduction": sequence_sum, "batch_size": None},
        0.5,
    ),
}


@pytest.mark.parametrize("kl_coef", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
@pytest.mark.parametrize(("kind", "kwargs", "factor"), GROUPED.values(), ids=GROUPED)
def test_the_expected_gradient_of_pairs_of_answers(kind, kwargs, factor, kl_coef, enumerated):
    """Every pair of answers to the same prompt, each judged against the other."""
    pairs = [
        (prompt, response)
        for prompt in range(len(PROMPTS))
        for pair in itertools.product(responses(), repeat=2)
        for response in pair
    ]
    agent, _ = enumerated(kind, kl_coef, episodes=pairs, group_size=2, **kwargs)
    batch = captured_batch(agent, rollout := agent.collect())
    weights = rollout.log_probs.sum(dim=1).exp().reshape(-1, 2).prod(dim=1) / len(PROMPTS)
    assert_close(weights.sum(), torch.tensor(1.0))
    # The loss is linear in the advantages, so that the weights may go there; rows: a pair's two.
    batch.advantages = batch.advantages * weights.repeat_interleave(2)[:, None]
    batch.counts = Counts(batch.counts.steps, 2)
    expected = gradient(agent.loss(batch), agent.policy.model)
    every = list(itertools.product(range(len(PROMPTS)), responses()))
    _, exact = exact_gradient(agent, every, kl_coef)
    assert (expected - factor * exact).norm() / exact.norm() < 1e-5


@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
def test_the_expected_gradient_of_lookahead(kl_coef, enumerated, monkeypatch):
    """Every token as the other one that is judged, with a critic that knows nothing: whatever it
    says of the tokens, and of the states, has no effect on the mean."""
    settings = {"gae_lambda": 1.0, "vf_coef": 0.0, "n_epochs": 1, "batch_size": None}
    agent, episodes = enumerated(Lookahead, kl_coef, candidates=1, **settings)
    torch.nn.init.normal_(agent.policy.value_head.weight, generator=torch.manual_seed(1))
    rollout = agent.collect()
    weights = rollout.log_probs.sum(dim=1).exp() / len(PROMPTS)
    expected = 0.0
    for token in range(VOCABULARY):
        others = torch.full((rollout.num_steps, 1), token)
        monkeypatch.setattr(
            TokenDistribution, "draw", lambda self, *_, drawn=others: self.responses.in_rows(drawn)
        )
        batch = captured_batch(agent, rollout)
        assert batch.advantages[..., 1].abs().max() > 0.01
        chances = weights[:, None] * batch.old_log_probs[..., 1].exp()
        batch.advantages = batch.advantages * chances[..., None]
        batch.counts = Counts(1, 1)
        expected = expected + gradient(agent.loss(batch), agent.policy.model)
    advantages = rollout.generalized_advantages(1.0, 1.0)
    expected = expected * rollout.standard_deviation(advantages)
    _, exact = exact_gradient(agent, episodes, kl_coef)
    assert (expected - exact).norm() / exact.norm() < 1e-5


def test_a_baseline_changes_no_expected_gradient(enumerated):
    agent, episodes = enumerated(REINFORCE, 0.0, return_to_go=False, normalize_advantage=False)
    agent.baseline = 5.0
    _, exact = exact_gradient(agent, episodes, 0.0)
    expected = expected_gradient(agent, agent.collect())
    assert (expected - exact).norm() / exact.norm() < 1e-5


def test_a_reward_one_token_early_would_be_noticed(enumerated):
    """The return to go tells the token that earned a reward from the one before it."""
    agent, episodes = enumerated(REINFORCE, 0.0, **ALGORITHMS["return to go"][1])
    rollout = agent.collect()
    _, exact = exact_gradient(agent, episodes, 0.0)
    rollout.rewards = torch.cat([rollout.rewards[:, 1:], torch.zeros(len(episodes), 1)], dim=1)
    expected = expected_gradient(agent, rollout)
    assert (expected - exact).norm() / exact.norm() > 0.01


def test_a_kl_penalty_in_the_loss_has_the_gradient_of_the_kl(enumerated):
    """Of Σ_s d(s) KL(π(·|s)‖π_ref(·|s)), the states' own distribution d held fixed."""
    agent, episodes = enumerated(REINFORCE, 0.3, kl_loss_coef=2.0)
    rollout = agent.collect()
    rollout.rewards = torch.zeros_like(rollout.rewards)  # leaves the penalty alone
    expected = expected_gradient(agent, rollout)

    penalty = 0.0
    for (prompt, response), log_prob in zip(episodes, rollout.log_probs.sum(dim=1), strict=True):
        head = [" abc".index(letter) for letter in PROMPTS[prompt].split()]
        ids = torch.tensor([[*head, *response]])
        own, reference = (
            (model(input_ids=ids).logits[0, len(head) - 1 : -1].double() / 0.8).log_softmax(-1)
            for model in (agent.policy.model, agent.env.shaping.reference)
        )
        kl = (own.exp() * (own - reference)).sum()
        penalty = penalty + log_prob.exp() / len(PROMPTS) * kl
    exact = gradient(2.0 * penalty, agent.policy.model)
    assert exact.norm() > 0.1
    assert (expected - exact).norm() / exact.norm() < 1e-5


@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
def test_the_rewards_of_each_token(enumerated, kl_coef):
    """Score and penalty on the last token, the stop token included; β·k1 on each."""
    agent, episodes = enumerated(REINFORCE, kl_coef)
    rollout = agent.collect()
    kl = 0.0
    if kl_coef:
        kl = (rollout.log_probs - rollout.reference_log_probs) * rollout.mask
        reference = sequence_log_probs(agent.env.shaping.reference, episodes).float()
        assert_close(rollout.reference_log_probs.sum(dim=1), reference.detach())
    unshaped = rollout.rewards + kl_coef * kl
    for row, (prompt, response) in enumerate(episodes):
        head = tuple(" abc".index(letter) for letter in PROMPTS[prompt].split())
        wanted = torch.zeros(BUDGET)
        wanted[len(response) - 1] = score(head, response) - PENALTY * (response[-1] != EOS)
        assert_close(unshaped[row], wanted, rtol=1e-5, atol=1e-5)
        assert rollout.mask[row].tolist() == [t < len(response) for t in range(BUDGET)]
        assert rollout.episode_end[row].nonzero().item() == len(response) - 1
