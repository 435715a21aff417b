"""Experience: a `Rollout` of collected steps, and the `Batch` objects made from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents import distributed
from agents.functional.reductions import Counts
from textenv.arrays import to_device, to_host

Tree = Any  # a tensor, or a dictionary of tensors
ABSENT: Any = None  # a column that the algorithm has not added


def take(tree: Tree, rows: Any) -> Tree:
    """The chosen rows of a tensor, or of each tensor in a dictionary."""
    return {k: v[rows] for k, v in tree.items()} if isinstance(tree, dict) else tree[rows]


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


@dataclass
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
            them differ.
        one_step: whether the policy takes a single step on it, and π_old is what it is evaluated as
            in that step. Then `log_probs` are as it acted, in a reduced precision.
        episodes: lists with one entry per ended episode: ``return``, ``length``, and for text
            ``score``, ``kl`` (nats per episode), ``response``.
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
    one_step: bool = False
    episodes: dict[str, list] = field(default_factory=dict)

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

    @property
    def completed(self) -> Tensor:
        """``[B, T]`` bool: steps of episodes whose end is in the rollout."""
        return self.episode_end.flip(1).cumsum(1).flip(1) > 0

    def share_episodes(self) -> tuple[int, dict[str, list]]:
        """Make `episodes` those of the rollouts of all processes (`agents.distributed`), by rank.

        Returns:
            The number of counted steps in all processes, and the episodes of the other ones.
        """
        parts = distributed.all_gather((self.num_steps, self.episodes))
        none: dict[str, list] = {"return": [], "length": []}
        others = [
            episodes for rank, (_, episodes) in enumerate(parts) if rank != distributed.rank()
        ]
        self.episodes = joined([none, *(episodes for _, episodes in parts)])
        return sum(num_steps for num_steps, _ in parts), joined([none, *others])

    def batch(self, **columns: Tensor) -> Batch:
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
            reference_log_probs=self.reference_log_probs,
            one_step=self.one_step,
            **columns,
        )
        return batch if self.sequential else batch.flat()

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
        read once (`textenv.lm.shared_prompts`).
        """
        whole = self.batch(**columns)
        (steps,) = to_host(whole.mask.sum(dim=1))  # of each row
        of_all = sum(distributed.all_gather(len(whole)))
        if batch_size is None or batch_size >= of_all:
            yield whole
            return
        group_size = group_size if len(whole) % group_size == 0 else 1
        groups = torch.randperm(len(whole) // group_size, generator=generator)
        order = (groups[:, None] * group_size + torch.arange(group_size)).flatten()
        # Where a minibatch ends among all rows, and the same share of the rows that are here.
        ends = [*range(0, of_all, batch_size), of_all]
        for start, end in pairwise(end * len(whole) // of_all for end in ends):
            rows = order[start:end]
            yield whole.take(to_device(rows, whole.mask.device), whole.counts_of(steps[rows]))


@dataclass
class Batch:
    """Rows for one optimiser step. Columns as in `Rollout`; "old" means the policy that acted.

    Attributes:
        advantages, returns: ``[B, T]``, where the algorithm adds them.
        counts: those of the **whole** optimiser step, also in its micro-batches and in its shares
            of several processes (`of_all`), so that their losses add up to the loss of the whole
            and not to a mean of means.
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
    reference_log_probs: Tensor | None = None
    one_step: bool = False

    def __len__(self) -> int:
        return len(self.mask)

    def old(self, log_probs: Tensor) -> Tensor:
        """log π_old of these steps, where ``log_probs`` are those of π."""
        return log_probs.detach() if self.one_step else self.old_log_probs

    def take(self, rows: Any, counts: Counts | None = None) -> Batch:
        """A batch of the chosen rows; its counts are computed from them unless they are given."""
        chosen = {
            column.name: take(getattr(self, column.name), rows)
            for column in fields(self)
            if isinstance(getattr(self, column.name), Tensor | dict)
        }
        batch = replace(self, **chosen)
        batch.counts = self.counts_of(*to_host(batch.mask.sum(dim=1))) if counts is None else counts
        return batch

    def counts_of(self, steps: Tensor) -> Counts:
        """The counts of some rows. For single steps, whose rows are not episodes, the number of
        episodes is the whole number times the share of the steps that are here.

        Args:
            steps: ``[R]`` on the CPU, how many steps of each of these rows count.
        """
        total = int(steps.sum())
        if self.sequential:
            return Counts(total, int((steps > 0).sum()))
        return Counts(total, self.counts.episodes * total / max(self.counts.steps, 1))

    def of_all(self) -> Batch:
        """The same rows, with the counts of the rows of all processes (`agents.distributed`)."""
        return replace(self, counts=Counts(*distributed.all_reduce(self.counts)))

    def flat(self) -> Batch:
        """Each counted step as a separate row, ``[N, 1]``."""
        at = self.mask.nonzero(as_tuple=True)
        return self.take(tuple(index[:, None] for index in at), self.counts)

    def micro_batches(self, size: int | None) -> Iterator[Batch]:
        """The batch in parts of at most ``size`` rows, which keep the counts of the whole.

        A share of a minibatch that is empty has no parts.
        """
        if not len(self):
            return
        if size is None or size >= len(self):
            yield self
            return
        for rows in torch.arange(len(self), device=self.mask.device).split(size):
            yield self.take(rows, self.counts)
