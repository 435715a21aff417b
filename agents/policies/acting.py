"""Policies that act in a text environment, but do not learn."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.decoding import Caches, Decoders, next_tokens
from agents.policies.distributions import draw
from textenv.kl.shaping import ActionRecord
from textenv.lm.early_stops import next_early_stops
from textenv.lm.log_probs import Sampling

# Actions, their log π in nats, and the state of the next call.
Choice = tuple[Tensor, Tensor, Any]


class ActingPolicy:
    """What only acts: the part of `agents.policies.base.Policy` that evaluations need.

    ``sampling`` is the rule from logits to probabilities, also for the reference of the KL.
    """

    sequential = True
    rollout_observations = CausalLMPolicy.rollout_observations

    def __init__(self, sampling: Sampling, device: str | torch.device, seed: int = 0):
        self.sampling, self.device = sampling, torch.device(device)
        self.generator = torch.Generator(device=device)
        self.action_record: ActionRecord | None = None
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Seed the drawing of actions."""
        self.generator.manual_seed(seed)

    @torch.no_grad()
    def act(
        self,
        observation: dict[str, Any],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Any]:
        """As `Policy.act`; the values are 0."""
        actions, log_probs, state = self.choose(observation, state, episode_start, deterministic)
        self.action_record = ActionRecord(actions.clone(), log_probs)
        return actions, log_probs, torch.zeros_like(log_probs), state

    def choose(self, observation: dict[str, Any], state: Any, start: Any, greedy: bool) -> Choice:
        """What `act` returns besides the values, from its arguments in their order."""
        raise NotImplementedError


class ReferencePolicy(ActingPolicy):
    """π_ref, with the temperature and the bans of a policy that is compared with it."""

    def __init__(self, model: nn.Module, sampling: Sampling, seed: int = 0):
        super().__init__(sampling, next(model.parameters()).device, seed)
        self.model, self.decoders = model, Decoders()

    def choose(self, observation: dict[str, Any], state: Any, start: Any, greedy: bool) -> Choice:
        if state is None:
            shape = observation["input_ids"].shape
            state = self.decoders.lend(Caches(self.decoders.take(self.model, *shape)))
        drawn = next_tokens(state.policy, observation, self.sampling, self.generator, greedy)
        return drawn[0], drawn[1], state


class UniformPolicy(ActingPolicy):
    """Every token that may be chosen is equally likely."""

    def choose(self, observation: dict[str, Any], state: Any, start: Any, greedy: bool) -> Choice:
        lengths = torch.as_tensor(observation["attention_mask"]).sum(dim=1, dtype=torch.int64)
        equal = torch.zeros((len(lengths), self.sampling.vocabulary or 0), device=self.device)
        early = next_early_stops(observation, lengths)
        every = self.sampling.apply(equal, early).log_softmax(dim=-1)
        actions = draw(every, self.generator)
        return actions, every.gather(1, actions[:, None])[:, 0], None


class GreedyPolicy(ActingPolicy):
    """The most likely token of another policy, at each step.

    It is a policy of its own, whose probability of that token is 1. So log π is 0, and its KL to
    the reference is −log π_ref of the whole text. The random numbers of the other one are not used.
    """

    def __init__(self, policy: Any):
        super().__init__(policy.sampling, policy.device)
        self.policy = policy
        self.model = getattr(policy, "model", None)  # whose tokenizer an environment compares

    def choose(self, observation: dict[str, Any], state: Any, start: Any, greedy: bool) -> Choice:
        actions, log_probs, _, state = self.policy.act(observation, state, start, True)
        return actions, torch.zeros_like(log_probs), state


class ForeignPolicy(ActingPolicy):
    """Anything with the ``predict`` of stable-baselines3 in a text environment.

    It gets observations of numpy, and draws from the global random state of torch, as models of
    stable-baselines3 do. What its actions' probabilities were is not known: log π is nan, and
    ``sampling`` is for the environment alone.
    """

    def __init__(self, model: Any, sampling: Sampling, deterministic: bool):
        super().__init__(sampling, torch.device("cpu"))
        self.foreign, self.deterministic = model, deterministic
        self.generator = torch.default_generator

    def choose(self, observation: dict[str, Any], state: Any, start: Any, greedy: bool) -> Choice:
        rows = {key: np.asarray(value) for key, value in observation.items()}
        start = np.asarray(start, dtype=bool)
        actions, state = self.foreign.predict(rows, state, start, self.deterministic)
        chosen = torch.as_tensor(np.asarray(actions).reshape(-1), dtype=torch.int64)
        return chosen, torch.full(chosen.shape, torch.nan), state
