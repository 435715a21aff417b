"""The reference model of a text environment as a policy that acts, but does not learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.decoding import Caches, Decoders, next_tokens
from textenv.lm.scoring import Sampling


class ReferencePolicy:
    """π_ref, with the temperature and the bans of a policy that is compared with it.

    Args:
        model: the reference model, on the device of the environment.
        sampling: the rule from its logits to probabilities.
        seed: the seed of the actions.
    """

    sequential = True
    rollout_observations = CausalLMPolicy.rollout_observations

    def __init__(self, model: nn.Module, sampling: Sampling, seed: int):
        self.model, self.sampling = model, sampling
        self.device, self.decoders = next(model.parameters()).device, Decoders()
        self.generator = torch.Generator(device=self.device)
        self.generator.manual_seed(seed)

    @torch.no_grad()
    def act(
        self,
        observation: dict[str, Any],
        state: Caches | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Caches]:
        """As `Policy.act`; the values are 0."""
        if state is None:
            shape = observation["input_ids"].shape
            state = self.decoders.lend(Caches(self.decoders.take(self.model, *shape)))
        actions, log_probs, _ = next_tokens(
            state.policy, observation, self.sampling, self.generator, deterministic
        )
        return actions, log_probs, torch.zeros_like(log_probs), state
