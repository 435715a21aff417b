"""How episodes begin: seeds, groups, and the random choice of prompts."""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding

from textenv.arrays import to_numpy
from textenv.prompts.load import EncodedPrompt


class Starts:
    """Draws the prompt with which each row's next episode begins.

    There is one generator for each group of ``group_size`` consecutive rows. It draws one sequence
    of prompts; the k-th episode of every row of the group begins with the k-th prompt, also if the
    rows reach it at different times. Rows that are reset together continue at the same position.
    """

    def __init__(self, prompts: Sequence[EncodedPrompt], num_rows: int, group_size: int = 1):
        self.prompts, self.num_rows, self.group_size = prompts, num_rows, group_size
        self.prompt_index = np.zeros(num_rows, np.int64)  # of each row's current episode
        self.seeded = False
        groups = num_rows // group_size
        self._generators = [np.random.default_rng() for _ in range(groups)]
        self._drawn: list[list[int]] = [[] for _ in range(groups)]  # draws that a row still needs
        self._forgotten = [0] * groups  # the number of earlier draws, used by all rows
        self._episodes = np.zeros(num_rows, np.int64)  # the number of draws that each row has used
        self._entropy = [0] * groups  # the seed of each group
        self._begun = np.zeros(num_rows, np.int64)  # episodes whose chance has a seed

    def checked_mask(self, mask: Any, may_be_some: bool) -> np.ndarray:
        """The rows to reset, bool ``[B]``; None means all rows. ``may_be_some``: whether some rows
        may be reset while the others continue."""
        every = np.ones(self.num_rows, np.bool_)
        mask = every if mask is None else to_numpy(mask)
        if mask.shape != every.shape or mask.dtype != np.bool_:
            raise ValueError(
                f"options['reset_mask'] must be a bool array of the shape ({self.num_rows},)."
            )
        if not mask.any():
            raise ValueError("options['reset_mask'] must name at least one row.")
        if not may_be_some and not mask.all():
            raise ValueError(
                "options['reset_mask'] must name all rows, or be left out, at the first reset and "
                "with scoring='batch', where all rows begin together."
            )
        return mask

    def seed(self, seed: int | Sequence[int | None], mask: np.ndarray) -> None:
        """Seed the groups that have a row in ``mask`` (bool ``[B]``).

        Row i is seeded with ``seed + i`` or with ``seed[i]``; None does not seed it. A group gets
        the seed of its first row.
        """
        given: list[Any] = list(seed) if isinstance(seed, Iterable) else [seed]
        for one in given:
            if not (one is None or isinstance(one, int | np.integer)) or isinstance(one, bool):
                raise ValueError(f"seed={seed!r} must be a whole number, or one for each row.")
        if not isinstance(seed, Iterable):
            given = [seed + row for row in range(self.num_rows)]
        if len(given) != self.num_rows:
            raise ValueError(
                f"seed has {len(given)} entries for {self.num_rows} rows: give one int, or one "
                "for each row."
            )
        self.seeded = True
        for group in np.unique(np.flatnonzero(mask) // self.group_size):
            first = group * self.group_size
            if given[first] is not None:
                self._generators[group], _ = seeding.np_random(int(given[first]))
                self._drawn[group], self._forgotten[group] = [], 0
                self._episodes[first : first + self.group_size] = 0
                self._begun[first : first + self.group_size] = 0
                self._entropy[group] = int(given[first])

    def seed_by_chance(self) -> None:
        """Seed every group with random numbers from the operating system."""
        entropy = int(np.random.SeedSequence().generate_state(1)[0])
        self.seed(entropy, np.ones(self.num_rows, np.bool_))

    def state_dict(self) -> dict[str, Any]:
        """Generators, draws and prompts, as data."""
        return {
            "generators": [generator.bit_generator.state for generator in self._generators],
            "drawn": [list(drawn) for drawn in self._drawn],
            "forgotten": list(self._forgotten),
            "episodes": self._episodes.copy(),
            "prompt_index": self.prompt_index.copy(),
            "prompts": self._fingerprint(),
            "seeded": self.seeded,
            "entropy": list(self._entropy),
            "begun": self._begun.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the object whose `state_dict` this is."""
        here = len(self._generators), self.num_rows
        there = len(state["generators"]), len(state["episodes"])
        if here != there:
            raise ValueError(
                "This environment has {} groups and {} rows; the state is of one with {} and "
                "{}.".format(*here, *there)
            )
        if state["prompts"] != self._fingerprint():
            raise ValueError("The prompts of this environment are not those of the state.")
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            generator.bit_generator.state = saved
        self._drawn = [list(drawn) for drawn in state["drawn"]]
        self._forgotten = list(state["forgotten"])
        self._episodes = np.array(state["episodes"], np.int64)
        self.prompt_index = np.array(state["prompt_index"], np.int64)
        self.seeded = bool(state["seeded"])
        self._entropy = list(state.get("entropy", self._entropy))  # earlier releases had none
        self._begun = np.array(state.get("begun", self._begun), np.int64)

    def _fingerprint(self) -> int:
        """A number that differs for other prompts."""
        checksum = 0
        for prompt in self.prompts:
            checksum = zlib.crc32(np.asarray(prompt.ids, np.int64).tobytes(), checksum + 1)
        return checksum

    def draw(self, mask: np.ndarray, together: bool) -> None:
        """Draw the prompts with which the next episodes of the rows of ``mask`` (bool ``[B]``)
        begin.

        ``together``: whether one call resets these rows, and not the ends of their episodes. Then
        rows of one group begin with the same prompt, whatever they have used so far.
        """
        rows = np.flatnonzero(mask)
        if together and self.group_size > 1:
            for group in np.unique(rows // self.group_size):
                members = rows[rows // self.group_size == group]
                self._episodes[members] = self._episodes[members].max()
        for row in rows.tolist():
            self.prompt_index[row] = self._next(row)

    def chances(self, mask: np.ndarray, together: bool) -> list[int]:
        """Seeds for what is random in the next episodes of the rows of ``mask`` beside the policy:
        the k-th episodes of the rows of a group have the same. ``together`` as of `draw`."""
        rows = np.flatnonzero(mask)
        if together:
            for group in np.unique(rows // self.group_size):
                members = rows[rows // self.group_size == group]
                self._begun[members] = self._begun[members].max()
        seeds = []
        for row in rows.tolist():
            entropy = self._entropy[row // self.group_size], int(self._begun[row])
            seeds.append(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
            self._begun[row] += 1
        return seeds

    def choose(self, mask: np.ndarray, prompt_index: Any) -> None:
        """Set the prompts of the rows of ``mask`` to those that the caller chose; none is drawn."""
        index = to_numpy(prompt_index)
        if (
            index.shape != (self.num_rows,)
            or index.dtype.kind not in "iu"
            or not bool(((index >= 0) & (index < len(self.prompts))).all())
        ):
            raise ValueError(
                f"options['prompt_index']={index.tolist()} must be {self.num_rows} whole numbers "
                f"from 0 to {len(self.prompts) - 1}, one for each row."
            )
        self.prompt_index[mask] = index[mask]

    def current_prompts(self, rows: np.ndarray) -> list[EncodedPrompt]:
        """The prompts of these rows' current episodes."""
        return [self.prompts[index] for index in self.prompt_index[rows]]

    def prompt_of(self, row: int) -> EncodedPrompt:
        """The prompt of a row's current episode."""
        return self.prompts[self.prompt_index[row]]

    def _next(self, row: int) -> int:
        group = row // self.group_size
        drawn = self._drawn[group]
        place = self._episodes[row] - self._forgotten[group]
        while len(drawn) <= place:
            drawn.append(int(self._generators[group].integers(len(self.prompts))))
        self._episodes[row] += 1
        first = group * self.group_size
        met_by_all = int(self._episodes[first : first + self.group_size].min())
        prompt = drawn[place]
        del drawn[: met_by_all - self._forgotten[group]]
        self._forgotten[group] = max(self._forgotten[group], met_by_all)
        return prompt
