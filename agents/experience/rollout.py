"""Experience: a `Rollout` of collected steps, and the `Batch` objects made from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.functional import advantages as psi
from agents.functional import critic_losses
from agents.functional.reductions import Counts, token_mean
from textenv.arrays import to_device, to_host

Tree = Any  # a tensor, or a dictionary of tensors
ABSENT: Any = None  # a column that the algorithm has not added
InStep = Callable[[Iterable[Any], Any], Iterable[Any]]


def take(tree: Tree, rows: Any) -> Tree:
    """The chosen rows of a tensor, or of each tensor in a dictionary."""
    return {k: v[rows] for k, v in tree.items()} if isinstance(tree, dict) else tree[rows]


def _nothing(tree: Tree) -> Tree:
    """One row of zeros."""
    if isinstance(tree, dict):
        return {key: _nothing(value) for key, value in tree.items()}
    return tree.new_zeros(1, *tree.shape[1:])


def with_last(column: Tensor, steps: Tensor, last: Tensor | None = None) -> Tensor:
    """A column ``[B, T, ...]`` with one more step; ``last`` ``[B]`` after the first ``steps``
    ``[B]`` of each row, or 0."""
    longer = torch.cat([column, torch.zeros_like(column[:, :1])], dim=1)
    if last is not None:
        longer[torch.arange(len(longer), device=longer.device), steps] = last
    return longer


def joined(parts: Iterable[Mapping[str, list]]) -> dict[str, list]:
    """The columns of several tables of episodes, one after another."""
    columns: dict[str, list] = {}
    for part in parts:
        for name, column in part.items():
            columns.setdefault(name, []).extend(column)
    return columns


class Step(NamedTuple):
    """A step of an environment, as it is reported to callbacks; columns over the rows.

    Attributes:
        taken: rows in which the step counts.
        actions, log_probs, values: of the policy.
        observation: the next one, of ended rows that of the next episode.
        rewards, terminated, truncated, infos: as the environment returned them.
        final: the last observations of the rows that ended; None if none did.
        returns, lengths: of the episodes that ended, in the order of their rows.
    """

    taken: int
    actions: Any
    log_probs: Tensor
    values: Tensor
    observation: Any
    rewards: Any
    terminated: Any
    truncated: Any
    infos: dict[str, Any]
    final: Any
    returns: Any
    lengths: Any


@dataclass(repr=False)
class Rollout:
    """Collected steps, in rows ``[B, T]``.

    Attributes:
        observations: the input of the policy's ``evaluate``: ``[B, T, ...]``, or for a sequential
            policy one entry per row, the last observation of its only episode.
        actions: ``[B, T, ...]``.
        log_probs: log π_old(a_t|s_t), nats.
        values: V(s_t) of the critic when the steps were taken.
        next_values: V(s_{t+1}): 0 where terminated, V(final observation) where truncated.
        rewards: KL shaping included.
        episode_end: the episode ends after step t, terminated or truncated.
        mask: True for steps that count. Padding and the reset steps of NEXT_STEP do not count.
        sequential: whether a row is one whole sequence, which must not be split.
        whole_episodes: whether each row is one episode from its beginning to its end, in the order
            of the environment's rows, as comparison within groups requires.
        reference_log_probs: log π_ref(a_t|s_t) where the environment has a reference.
        log_prob_mismatch: |log π of acting − log π of evaluating|, if a reduced precision makes
            them differ (`use_evaluated_log_probs`).
        episodes: lists with one entry per ended episode: ``return``, ``length``, and for text
            ``score``, ``kl`` (nats per episode), ``response``.
        all_reduce: adds numbers to those of the rollouts of other processes, which are parts of
            the same experience; None if this is all of it. Statistics are those of all parts.
        in_step: adds idle parts to those of a batch, so that all processes have as many
            (`agents.distributed.in_step`), where they compute together; else None.
    """

    observations: Tree
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    next_values: Tensor
    rewards: Tensor
    episode_end: Tensor
    mask: Tensor
    sequential: bool = False
    whole_episodes: bool = False
    reference_log_probs: Tensor | None = None
    log_prob_mismatch: Tensor | None = None
    episodes: dict[str, list] = field(default_factory=dict)
    all_reduce: Callable[[Iterable[float]], list[float]] | None = None
    in_step: InStep | None = None

    def __repr__(self) -> str:
        ended = len(self.episodes.get("return", ()))
        return f"Rollout of {self.num_steps} steps in {len(self.mask)} rows; {ended} episodes ended"

    @property
    def num_steps(self) -> int:
        """How many steps count."""
        return int(self.counts.steps)

    @property
    def counts(self) -> Counts:
        """How many steps count, and how many episodes they belong to."""
        follows = torch.zeros_like(self.mask)  # whether a step continues the episode before it
        follows[:, 1:] = self.mask[:, :-1] & ~self.episode_end[:, :-1]
        return Counts(*torch.stack([self.mask.sum(), (self.mask & ~follows).sum()]).tolist())

    # --- returns and advantages -------------------------------------------------------------

    def generalized_advantages(self, gamma: float, gae_lambda: float) -> Tensor:
        """GAE(γ, λ) with the critic that acted ``[B, T]``."""
        return psi.generalized_advantages(
            self.rewards, self.values, self.next_values, self.episode_end, gamma, gae_lambda,
            self.mask,
        )  # fmt: skip

    def returns_to_go(self, gamma: float) -> Tensor:
        """G_t, the discounted rewards from step t on ``[B, T]``."""
        return psi.discounted_returns(self.rewards, self.episode_end, gamma, mask=self.mask)

    def whole_returns(self, gamma: float) -> Tensor:
        """R(τ) = Σ_t γ^t r_t of each row's episode, at every step of it ``[B, T]``. Where a row is
        not one whole episode, its sum of rewards is not a return: a ValueError."""
        if not self.whole_episodes:
            raise ValueError(
                "This needs one whole episode in each row of a rollout: give the agent a text "
                "environment by its id or unwrapped, or episodes of one step with n_steps=1."
            )
        return psi.trajectory_return(self.rewards, gamma, self.mask)

    def group_advantages(
        self, advantage_fn: Callable[[Tensor, int], Tensor], gamma: float, group_size: int
    ) -> Tensor:
        """Each row's return compared within its group of G consecutive rows, which have the same
        prompt, at every step ``[B, T]``. ``advantage_fn`` makes advantages of N returns and G
        (`agents.functional.advantages`)."""
        returns = self.whole_returns(gamma)[:, 0]
        return advantage_fn(returns, group_size)[:, None].expand_as(self.rewards)

    def completed(self) -> Rollout:
        """Only the steps of episodes whose end is in the rollout.

        Without a critic there is nothing to bootstrap from: the others have no return yet.
        """
        ends_later = self.episode_end.flip(1).cumsum(1).flip(1) > 0
        completed = replace(self, mask=self.mask & ends_later)
        if not completed._total(completed.num_steps):
            raise ValueError(
                f"No episode ended within the {self.mask.shape[1]} steps of a rollout, so there "
                "is no return to learn from: raise n_steps."
            )
        return completed

    def with_last_states(self) -> Rollout:
        """Whole texts with one more step in each row: the finished text, a state in which nothing
        is done. The action there is 0, and so is its log-probability."""
        rows = torch.arange(len(self.mask), device=self.mask.device)
        steps = self.mask.sum(dim=1)
        ends = self.observations["prompt_lengths"].to(steps.device) + steps - 1
        tokens = self.observations["input_ids"]
        tokens = torch.nn.functional.pad(tokens, (0, 1))
        taken = self.actions if self.actions.dim() == 2 else self.actions[..., 0]
        tokens[rows, ends] = taken[rows, steps - 1].to(tokens.dtype)
        names = ("log_probs", "actions", "values", "next_values", "rewards", "episode_end")
        columns: dict[str, Any] = {name: with_last(getattr(self, name), steps) for name in names}
        columns["mask"] = with_last(self.mask, steps, torch.ones_like(self.mask[:, 0]))
        observations = {**self.observations, "input_ids": tokens}
        return replace(self, observations=observations, reference_log_probs=None, **columns)

    # --- statistics -------------------------------------------------------------------------

    def mean(self, values: Tensor) -> float:
        """The mean of ``values`` ``[B, T]`` over the counted steps."""
        if self.all_reduce is None:
            return float(values[self.mask].mean())
        return self._of_all(values)[0]

    def normalized(self, values: Tensor) -> Tensor:
        """`psi.normalize` over the counted steps."""
        moments = None if self.all_reduce is None else self._of_all(values)
        return psi.normalize(values, self.mask, moments=moments)

    def scaled(self, values: Tensor) -> Tensor:
        """`psi.scaled` over the counted steps."""
        moments = None if self.all_reduce is None else self._of_all(values)
        return psi.scaled(values, self.mask, moments=moments)

    def standard_deviation(self, values: Tensor) -> float:
        """Of ``values`` ``[B, T]``, over the counted steps."""
        if self.all_reduce is None:
            return float(values[self.mask].std())
        return self._of_all(values)[1]

    def explained_variance(self, returns: Tensor) -> float:
        """How well the critic that acted has foretold ``returns`` ``[B, T]``."""
        if self.all_reduce is None:
            return float(critic_losses.explained_variance(self.values, returns, self.mask))
        deviation, error = (self._of_all(x)[1] for x in (returns, returns - self.values))
        return 1 - (error / deviation) ** 2 if deviation else 0.0

    def _total(self, number: float) -> float:
        return number if self.all_reduce is None else self.all_reduce([number])[0]

    def _of_all(self, values: Tensor) -> tuple[float, float]:
        """Mean and standard deviation of the counted values in all parts of the experience."""
        assert self.all_reduce is not None
        counted = values[self.mask].double()
        count, total = self.all_reduce([counted.numel(), float(counted.sum())])
        mean = total / count
        (squares,) = self.all_reduce([float((counted - mean).square().sum())])
        return mean, (squares / max(count - 1, 1)) ** 0.5

    # --- batches ----------------------------------------------------------------------------

    @torch.no_grad()
    def use_evaluated_log_probs(self, policy: Any, rows_at_once: int | None) -> None:
        """Take log π_old from ``policy.evaluate``, so that the ratio is 1 before the first step.
        The policy has the weights that acted, in a reduced precision, and reads so many
        ``rows_at_once`` (None: all)."""
        parts = self.batch().micro_batches(rows_at_once)
        evaluated = torch.cat([policy.evaluate(part).log_probs for part in parts])
        evaluated = evaluated[: len(self.batch())]  # without idle parts
        if not self.sequential:  # a row for each counted step
            evaluated = self.log_probs.masked_scatter(self.mask, evaluated)
        self.log_prob_mismatch = (evaluated - self.log_probs).abs()
        self.log_probs = evaluated

    def batch(self, **columns: Any) -> Batch:
        """The whole rollout as one batch, with further columns ``[B, T]`` such as advantages.

        Single steps become rows of their own; sequences stay whole.
        """
        batch = Batch(
            self.observations,
            self.actions,
            self.mask,
            old_log_probs=self.log_probs,
            old_values=self.values,
            counts=self.counts,
            sequential=self.sequential,
            reference=self.reference_log_probs,
            in_step=self.in_step,
            **columns,
        )
        return batch if self.sequential else batch.flat()

    def is_one_batch(self, batch_size: int | None) -> bool:
        """Whether `batches` of this size are only one."""
        rows = len(self.mask) if self.sequential else self.num_steps
        return batch_size is None or batch_size >= self._total(rows)

    def batches(
        self,
        batch_size: int | None,
        generator: torch.Generator,
        group_size: int = 1,
        **columns: Tensor,
    ) -> Iterator[Batch]:
        """The rows in random order, ``batch_size`` at a time (None: all at once).

        Where several processes learn together, ``batch_size`` rows are those of all of them. Each
        yields its share of every minibatch, so that all have the same number of minibatches; a
        share may be empty.

        Groups of ``group_size`` consecutive rows stay together: they have one prompt, which is then
        read once (`textenv.lm.shared_prompts`). A minibatch has as many whole groups as
        ``batch_size`` has room for, and at least one.
        """
        whole = self.batch(**columns)
        if self.is_one_batch(batch_size):
            yield whole
            return
        (steps,) = to_host(whole.mask.sum(dim=1))  # of each row
        group_size = group_size if len(whole) % group_size == 0 else 1
        here = len(whole) // group_size
        everywhere = int(self._total(here))
        groups = torch.randperm(here, generator=generator)
        order = (groups[:, None] * group_size + torch.arange(group_size)).flatten()
        # Where a minibatch ends among all groups, and the same share of the groups that are here.
        ends = [*range(0, everywhere, max(1, batch_size // group_size)), everywhere]  # type: ignore[operator]
        for start, end in pairwise(end * here // everywhere * group_size for end in ends):
            rows = order[start:end]
            yield whole.take(to_device(rows, whole.mask.device), whole.counts_of(steps[rows]))


@dataclass(repr=False)
class Batch:
    """Rows for one optimiser step. Columns as in `Rollout`; "old" means the policy that acted.

    Attributes:
        advantages, returns: ``[B, T]``, where the algorithm adds them.
        counts: those of the **whole** optimiser step, also in its micro-batches and in its shares
            of several processes, so that their losses add up to the loss of the whole and not to a
            mean of means.
        old_distribution: π_old over all actions, where the algorithm keeps it.
        is_only_step: whether this is the only step on its rollout, so that π_old is π.
        means: what a loss has computed, for the log, by its name; divided by the counts as well.
        in_step: as of the rollout.
    """

    observations: Tree
    actions: Tensor
    mask: Tensor
    old_log_probs: Tensor
    old_values: Tensor
    counts: Counts
    sequential: bool
    advantages: Tensor = ABSENT
    returns: Tensor = ABSENT
    reference: Tensor | None = None
    is_only_step: bool = False
    old_distribution: Any = None
    means: dict[str, Tensor] = field(default_factory=dict)
    in_step: InStep | None = None

    def __len__(self) -> int:
        return len(self.mask)

    def __repr__(self) -> str:
        return f"Batch of {len(self)} rows, {self.counts.steps:g} steps in its optimiser step"

    @property
    def reference_log_probs(self) -> Tensor:
        """log π_ref(a_t|s_t) ``[B, T]``, nats; a ValueError if the environment has no reference."""
        if self.reference is None:
            raise ValueError(
                "kl_loss_coef > 0 needs a reference: make the environment with reference=, the "
                "model to stay close to, or set kl_loss_coef=0."
            )
        return self.reference

    def mean(
        self, name: str, losses: Tensor, reduction: Callable[..., Tensor] = token_mean
    ) -> Tensor:
        """One number from ``losses`` ``[B, T]`` of the counted steps, the log's ``name``, by a
        reduction of `agents.functional.reductions`."""
        value = reduction(losses, self.mask, self.counts)
        self.means[name] = value.detach()
        return value

    def take(self, rows: Any, counts: Counts | None = None) -> Batch:
        """A batch of the chosen rows; its counts are computed from them unless they are given."""
        chosen = {
            column.name: take(getattr(self, column.name), rows)
            for column in fields(self)
            if column.name != "means" and isinstance(getattr(self, column.name), Tensor | dict)
        }
        batch = replace(self, **chosen, means={})
        batch.counts = self.counts_of(*to_host(batch.mask.sum(dim=1))) if counts is None else counts
        return batch

    def counts_of(self, steps: Tensor) -> Counts:
        """The counts of some rows, of each of which so many ``steps`` ``[R]`` count, on the CPU.

        For single steps, whose rows are not episodes, the number of episodes is the whole number
        times the share of the steps that are here.
        """
        total = int(steps.sum())
        if self.sequential:
            return Counts(total, int((steps > 0).sum()))
        return Counts(total, self.counts.episodes * total / max(self.counts.steps, 1))

    def flat(self) -> Batch:
        """Each counted step as a separate row, ``[N, 1]``."""
        at = self.mask.nonzero(as_tuple=True)
        return self.take(tuple(index[:, None] for index in at), self.counts)

    def micro_batches(self, size: int | None) -> Iterator[Batch]:
        """The batch in parts of at most ``size`` rows, which keep the counts of the whole.

        A share of a minibatch that is empty has no parts, unless other processes wait for them.
        """
        parts = self._parts(size)
        return parts if self.in_step is None else iter(self.in_step(parts, self.idle()))

    def _parts(self, size: int | None) -> Iterator[Batch]:
        if not len(self):
            return
        if size is None or size >= len(self):
            yield self
            return
        for rows in torch.arange(len(self), device=self.mask.device).split(size):
            yield self.take(rows, self.counts)

    def idle(self) -> Batch:
        """One row, in which no step counts."""
        columns = {
            name: _nothing(column)
            for name, column in vars(self).items()
            if name != "means" and isinstance(column, Tensor | dict)
        }
        return replace(self, **columns, means={})
