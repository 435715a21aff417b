"""KL shaping: what each token costs for leaving the reference model.

    r_t = score · [t is last] − β · k(log π(a_t|s_t), log π_ref(a_t|s_t))

The reference belongs to the environment; log π belongs to the agent, which binds its policy once
and leaves ``last_log_probs`` on it at every step. The KL that is logged is the KL trained on.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from textenv import kl as estimators
from textenv.lm.parts import check_supported, split, unwrapped

if TYPE_CHECKING:
    from textenv.lm.scoring import Sampling


TOKENS_AT_ONCE = 2**15  # of one forward pass; more rows than that are scored in several


class Policy(Protocol):
    """What the environment reads of a bound policy."""

    last_log_probs: Tensor  # [B] log π(a_t|s_t) of the actions just chosen, in nats
    last_logits: Tensor  # [B, V] of the distribution they were drawn from; for kl_estimator="exact"
    sampling: Sampling  # temperature and bans, which the reference has to share


class Schedule(Protocol):
    """A changing KL coefficient: ``value`` is read as episodes begin, ``update`` as they end."""

    value: float

    def update(self, kl: float, num_episodes: int) -> None: ...


class FixedKL:
    """A KL coefficient that stays as it is."""

    def __init__(self, value: float):
        self.value = value

    def update(self, kl: float, num_episodes: int) -> None: ...


class AdaptiveKL:
    """β that steers the KL of an episode towards a target (Ziegler et al. 2019, section 2.2).

        e = clip(KL / target − 1, −0.2, 0.2);   β ← β · (1 + e · n / horizon)

    Args:
        target: KL of a whole episode (the sum over its tokens), in nats. **Per sequence**, as in
            the paper; some libraries mean per token.
        horizon: episodes over which β can change by a factor of about 1.2.
        initial: β at the start.
    """

    def __init__(self, target: float = 6.0, horizon: float = 10_000, initial: float = 0.2):
        if not (target > 0 and horizon > 0 and initial > 0):
            raise ValueError(
                f"AdaptiveKL(target={target}, horizon={horizon}, initial={initial}): "
                "all three must be above 0."
            )
        self.target, self.horizon, self.value = target, horizon, initial

    def update(self, kl: float, num_episodes: int) -> None:
        """Take account of ``num_episodes`` ended episodes whose mean KL is ``kl`` nats."""
        if 0.2 * num_episodes >= self.horizon:
            raise ValueError(
                f"AdaptiveKL(horizon={self.horizon}) is too short for {num_episodes} episodes at "
                "once, which could turn β negative: take at least as many times ten."
            )
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.value *= 1 + error * num_episodes / self.horizon


class KLShaping:
    """The reference model of a batch of episodes, and the KL of a bound policy to it.

    Args:
        reference: a causal language model (live), of the tokenizer's vocabulary.
        coefficient: β, a number or a `Schedule`.
        estimator: "k1", "k2", "k3" or "exact" (see `textenv.kl`). In a reward k1 is the unbiased
            choice; k3 is never negative.
        num_rows: B.
        max_length: L.
        vocabulary: size of the action space.
    """

    def __init__(
        self,
        reference,
        coefficient: float | Schedule,
        estimator: str,
        num_rows: int,
        max_length: int,
        vocabulary: int,
    ):
        if estimator not in estimators.ESTIMATORS:
            raise ValueError(
                f"kl_estimator={estimator!r} is unknown: use one of "
                f"{', '.join(estimators.ESTIMATORS)}."
            )
        number = isinstance(coefficient, Real)
        if number and not 0 <= coefficient < float("inf"):
            raise ValueError(f"kl_coef={coefficient!r} must be a finite number of at least 0.")
        if not number and not (hasattr(coefficient, "value") and hasattr(coefficient, "update")):
            raise ValueError(
                f"kl_coef={coefficient!r} is neither a number nor a schedule with value and "
                "update, such as textenv.AdaptiveKL."
            )
        columns = unwrapped(reference).get_output_embeddings().weight.shape[0]
        if columns < vocabulary:
            raise ValueError(
                f"The tokenizer has {vocabulary} tokens, but the reference model only {columns}: "
                "give a tokenizer and a reference that belong together."
            )
        # Dropout off. Its weights may be those of a policy that learns, so they are not frozen.
        self.reference = reference.eval()
        check_supported(reference, max_length)
        self.schedule: Schedule = FixedKL(float(coefficient)) if number else coefficient
        self.estimator, self.stepwise_only = estimator, estimator == "exact"
        self.num_rows, self.max_length, self.vocabulary = num_rows, max_length, vocabulary
        self.policy: Policy | None = None
        self.decoder = None

    def bind(self, policy: Policy) -> None:
        """Take log π from ``policy`` from now on.

        Raises:
            ValueError: the policy's learning weights are the reference's own.
        """
        learning = getattr(policy, "parameters", list)()
        learning = {id(p) for p in learning if p.requires_grad}
        if any(id(p) in learning for p in self.reference.parameters()):
            raise ValueError(
                "The reference shares weights with the policy that learns, so the KL between them "
                "would always be 0: load the reference as a second copy."
            )
        self.policy = policy

    def to(self, device: torch.device) -> None:
        """Move the reference."""
        self.reference.to(device)
        self.decoder = None

    @property
    def sampling(self) -> Sampling:
        from textenv.lm.scoring import Sampling

        return getattr(self.policy, "sampling", Sampling()).limited_to(self.vocabulary)

    def policy_log_probs(self) -> Tensor | None:
        """log π of the actions just chosen, ``[B]``; None when only the reference is reported.

        Raises:
            RuntimeError: rewards are to be shaped and no policy is bound, or it has not acted.
        """
        log_probs = getattr(self.policy, "last_log_probs", None)
        if log_probs is None and self.schedule.value > 0:
            raise RuntimeError(
                "KL shaping (kl_coef > 0) needs the policy's log-probabilities: call "
                "env.unwrapped.bind(policy) once, with a policy that leaves last_log_probs [B] of "
                "its latest actions. The agents of this project bind themselves; kl_coef=0 only "
                "reports the reference's log-probabilities."
            )
        if log_probs is not None and log_probs.shape != (self.num_rows,):
            raise RuntimeError(
                f"The bound policy's last_log_probs have the shape {tuple(log_probs.shape)}, but "
                f"this environment has {self.num_rows} rows: let the policy act on its "
                "observations before each step."
            )
        return log_probs

    @torch.no_grad()
    def step(
        self, input_ids: Tensor, lengths: Tensor, start: Tensor, actions: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Reference log-probs ``[B]`` of ``actions`` in the states given; if bound, the KL ``[B]``.

        Args as `textenv.lm.decoder.Decoder.next`; everything in nats.
        """
        from textenv.lm.decoder import Decoder

        if self.decoder is None:
            self.decoder = Decoder(self.reference, self.num_rows, self.max_length)
        logits, _ = self.decoder.next(input_ids, lengths, start)
        logits = self.sampling.apply(logits)
        chosen = actions.to(logits.device)[:, None]
        reference_log_probs = logits.log_softmax(-1).gather(1, chosen)[:, 0]
        log_probs = self.policy_log_probs()
        if log_probs is None:
            return reference_log_probs, None
        if self.estimator == "exact":
            if getattr(self.policy, "last_logits", None) is None:
                raise RuntimeError(
                    "kl_estimator='exact' needs a policy that leaves last_logits [B, V]."
                )
            return reference_log_probs, estimators.exact(
                self.policy.last_logits.to(logits.device), logits
            )
        return reference_log_probs, self.kl(log_probs.to(logits.device), reference_log_probs)

    @torch.no_grad()
    def score(
        self, input_ids: Tensor, prompt_lengths: Tensor, actions: Tensor, mask: Tensor
    ) -> Tensor:
        """Reference log-probs ``[B, T]`` of whole responses in one pass; 0 off the mask."""
        from textenv.lm.scoring import response_states, token_log_probs

        device = next(self.reference.parameters()).device
        input_ids, prompt_lengths, actions, mask = (
            tensor.to(device) for tensor in (input_ids, prompt_lengths, actions, mask)
        )
        body, head = split(self.reference)
        scores = torch.zeros(mask.shape, device=device)
        rows_at_once = max(1, TOKENS_AT_ONCE // input_ids.shape[1])
        for rows in torch.arange(len(mask), device=device).split(rows_at_once):
            hidden = response_states(body, input_ids[rows], prompt_lengths[rows], mask[rows])
            tokens = actions[rows][mask[rows]]
            log_probs, _ = token_log_probs(head, hidden, tokens, self.sampling)
            scores[rows] = scores[rows].masked_scatter(mask[rows], log_probs)
        return scores

    def kl(self, log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
        """The sampled estimator of the KL, per token, in nats."""
        return getattr(estimators, self.estimator)(log_probs, reference_log_probs)
