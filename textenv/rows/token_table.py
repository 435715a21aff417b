"""The token table: B rows of tokens with their lengths, in numpy or in torch."""

import itertools
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from textenv.arrays import Array, Arrays, Origin, TokenObservation, to_host, to_numpy, to_tensor
from textenv.lm.responses import columns_of_actions

_episode_numbers = itertools.count(1)
# What changes in a table.
COLUMNS = (
    "tokens", "mask", "lengths", "prompt_lengths", "running", "stopped", "_columns", "_limits"
)  # fmt: skip
OF_DIALOGUES = "own", "replied", "turn_begins"


class TokenTable:
    """B prompts and responses as rows of at most L tokens, contiguous from column 0.

    ``copy``: whether observations are copies of the table or views of it. ``first_stops``: the stop
    tokens, and the smallest number of tokens with which they end a response; None if they may come
    first. ``dialogues``: whether tokens of replies come between those of a response.
    """

    def __init__(
        self,
        num_rows: int,
        max_length: int,
        arrays: Arrays,
        copy: bool,
        first_stops: tuple[list[int], int] | None = None,
        dialogues: bool = False,
    ):
        self.num_rows, self.max_length = num_rows, max_length
        self.arrays, self.copy = arrays, copy
        # The last column is never shown: the ignored actions of rows that have ended go there.
        self.tokens = arrays.zeros((num_rows, max_length + 1), np.int64)
        self.mask = arrays.zeros((num_rows, max_length + 1), np.int8)
        self.lengths = arrays.zeros(num_rows, np.int64)  # so far, the prompt included
        self.prompt_lengths = arrays.zeros(num_rows, np.int64)
        self.running = arrays.zeros(num_rows, np.bool_)
        self.stopped = arrays.zeros(num_rows, np.bool_)  # by a stop, not by the token budget
        self._rows = arrays.convert(np.arange(num_rows))
        self._ones = arrays.convert(np.ones(num_rows, np.int8))  # a number would have to be copied
        self._columns = arrays.zeros(num_rows, np.int64)  # where a row's next token goes
        self._limits = arrays.zeros(num_rows, np.int64)  # the length at which the budget is used
        self.dialogues = dialogues
        if dialogues:
            self.own = arrays.zeros((num_rows, max_length + 1), np.int8)  # 1 where actions are
            self.replied = arrays.zeros(num_rows, np.int64)  # tokens of replies so far
            self.turn_begins = arrays.zeros(num_rows, np.int64)  # columns
        self.origin = Origin(np.zeros(num_rows, np.int64), 0)
        stop_tokens, self.min_new_tokens = first_stops or ([], 0)
        self.stop_tokens = arrays.convert(np.tile(np.array(stop_tokens, np.int64), (num_rows, 1)))

    def begin(self, rows: np.ndarray, prompts: Sequence[np.ndarray], max_new_tokens: int) -> None:
        """Put a prompt into each of ``rows`` (indices) and start their episodes."""
        tokens, mask = (np.zeros((len(rows), self.max_length + 1), t) for t in (np.int64, np.int8))
        lengths = np.array([len(ids) for ids in prompts], np.int64)
        for i, ids in enumerate(prompts):
            tokens[i, : len(ids)] = ids
            mask[i, : len(ids)] = 1
        convert = self.arrays.convert
        at, converted = convert(rows), convert(lengths)
        self.tokens[at], self.mask[at] = convert(tokens), convert(mask)
        self._columns[at] = self.lengths[at] = self.prompt_lengths[at] = converted
        self._limits[at] = converted + max_new_tokens
        if self.dialogues:
            self.own[at], self.replied[at] = convert(np.zeros_like(mask)), convert(0 * lengths)
            self.turn_begins[at] = converted
        begins = convert(np.ones(len(rows), np.bool_))
        self.running[at], self.stopped[at] = begins, ~begins
        episodes = self.origin.episodes.copy()
        episodes[rows] = [next(_episode_numbers) for _ in rows]
        known = self.origin.lengths
        if known is not None:
            known = known.copy()
            known[rows] = lengths
        self.origin = Origin(episodes, self.origin.steps, known)

    @property
    def _state(self) -> tuple[str, ...]:
        return (*COLUMNS, *OF_DIALOGUES) if self.dialogues else COLUMNS

    def state_dict(self) -> dict[str, Array]:
        """All rows, as copies."""
        return {name: self.arrays.copy(getattr(self, name)) for name in self._state}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Set all rows to those of a `state_dict` of a table of this size; their episodes get new
        numbers."""
        there = tuple(state["tokens"].shape)
        if there != tuple(self.tokens.shape):
            raise ValueError(
                f"This table has the shape {tuple(self.tokens.shape)}; the state is of one with "
                f"{there}."
            )
        for name in self._state:
            getattr(self, name)[:] = self.arrays.convert(state[name])
        every = [next(_episode_numbers) for _ in range(self.num_rows)]
        self.origin = Origin(np.array(every, np.int64), self.origin.steps)

    def checked(self, actions: Any, vocabulary: int) -> Array:
        """Check that actions are one token id for each row, and convert them to the configured kind
        of array.

        Ids out of range are detected only if the table is on the CPU; elsewhere this check would
        make the host wait.
        """
        if self.arrays.numpy:
            actions = np.asarray(actions)
            whole = actions.dtype.kind in "iu"
        else:
            actions = torch.as_tensor(actions, device=self.arrays.device)
            whole = not (actions.is_floating_point() or actions.dtype == torch.bool)
        if actions.shape != (self.num_rows,):
            raise ValueError(
                f"actions have the shape {tuple(actions.shape)}, but this environment has "
                f"{self.num_rows} rows: give one token id for each row."
            )
        if not whole:
            raise ValueError(f"actions have the dtype {actions.dtype}: token ids are integers.")
        # Smaller integer types cannot index a tensor, and torch uses uint8 as a mask.
        actions = actions.astype(np.int64) if self.arrays.numpy else actions.long()
        on_cpu = self.arrays.device.type == "cpu"
        if on_cpu and (actions.min() < 0 or actions.max() >= vocabulary):
            wrong = [token for token in actions.tolist() if not 0 <= token < vocabulary]
            raise ValueError(
                f"actions contain the token id {wrong[0]}, but the vocabulary has the ids 0 to "
                f"{vocabulary - 1}."
            )
        return actions

    def require_running(self) -> None:
        """Raise ResetNeeded if there are rows whose episodes have ended."""
        rows = np.flatnonzero(to_numpy(~self.running)).tolist()
        if rows:
            raise gym.error.ResetNeeded(
                f"The episodes of rows {rows} have ended and nothing has reset them: call reset(), "
                "or reset(options={'reset_mask': mask}) for these rows alone, before the next step."
            )

    def append(self, actions: Array) -> None:
        """Write one token to each running row; the actions of the others are ignored."""
        self.tokens[self._rows, self._columns] = actions
        self.mask[self._rows, self._columns] = self._ones
        if self.dialogues:
            self.own[self._rows, self._columns] = self._ones
        self._columns += self.running
        self.lengths += self.running
        self.origin = Origin(self.origin.episodes, self.origin.steps + 1)

    def take_back(self) -> None:
        """Undo an `append` by which no episode has been ended yet."""
        appended = self.running * self._ones
        self._columns, self.lengths = self._columns - appended, self.lengths - appended
        columns = [(self.tokens, np.int64), (self.mask, np.int8)]
        columns += [(self.own, np.int8)] if self.dialogues else []
        for column, dtype in columns:
            column[self._rows, self._columns] = self.arrays.zeros(self.num_rows, dtype)
        self.origin = Origin(self.origin.episodes, self.origin.steps - 1)

    def budget_spent(self) -> Array:
        """``[B]`` bool: whether the row has used its token budget."""
        return self.lengths == self._limits

    def reply(self, rows: np.ndarray, replies: Sequence[np.ndarray], lengths: np.ndarray) -> None:
        """Write tokens that are no actions to each of ``rows`` (indices), whose next turns begin
        after them. ``lengths``: those ``[B]`` of all rows before, known on the host."""
        counts = np.array([len(ids) for ids in replies], np.int64)
        at = (
            np.repeat(rows, counts),
            np.concatenate(
                [
                    np.arange(begin, begin + n)
                    for begin, n in zip(lengths[rows], counts, strict=True)
                ]
                or [np.zeros(0, np.int64)]
            ),
        )
        convert = self.arrays.convert
        row, column = map(convert, at)
        self.tokens[row, column] = convert(np.concatenate([*replies, np.zeros(0, np.int64)]))
        self.mask[row, column] = convert(np.ones(len(at[0]), np.int8))
        here, counted = convert(rows), convert(counts)
        for counter in (self.lengths, self._columns, self._limits, self.replied):
            counter[here] += counted
        self.turn_begins[here] = self.lengths[here]
        after = lengths.copy()
        after[rows] += counts
        self.origin = Origin(self.origin.episodes, self.origin.steps, after)

    def turn_lengths(self) -> Array:
        """The lengths ``[B]`` of the turns so far, in tokens."""
        return self.lengths - self.turn_begins

    def end(self, ended: Array, stops: Array) -> None:
        """End the episodes of the rows ``ended``; those also in ``stops`` end by a stop."""
        self.running &= ~ended
        self.stopped |= ended & stops
        self._columns[ended] = self.max_length

    def response_lengths(self) -> Array:
        """The lengths ``[B]`` of the responses in tokens, the stop token included; tokens of
        replies are none of them."""
        lengths = self.lengths - self.prompt_lengths
        return lengths - self.replied if self.dialogues else lengths

    def last_tokens(self, count: int) -> list[np.ndarray]:
        """On the host, in one copy: the last ``count`` tokens of each row ``[B, count]``, its first
        one repeated if it has fewer; lengths, prompt lengths and running, each ``[B]``."""
        columns = self.lengths[:, None] - self.arrays.convert(np.arange(count, 0, -1))
        tokens = self.tokens[self._rows[:, None], columns * (columns > 0)]
        begins = self.turn_begins if self.dialogues else self.prompt_lengths
        every = tokens, self.lengths, begins, self.running
        return [column.numpy() for column in to_host(*map(to_tensor, every))]

    def responses(self, mask: torch.Tensor) -> torch.Tensor:
        """The response tokens ``[B, T]`` where ``mask`` ``[B, T]`` is True; arbitrary elsewhere."""
        begins = to_tensor(self.prompt_lengths)
        columns = columns_of_actions(begins, mask.shape[1], self.own_columns().get("own_tokens"))
        return to_tensor(self.tokens).gather(1, columns.clamp(max=self.max_length))

    def own_columns(self) -> dict[str, Array]:
        """``own_tokens`` ``[B, L]``, 1 in the columns of actions; empty without dialogues."""
        if not self.dialogues:
            return {}
        own = self.own[:, : self.max_length]
        return {"own_tokens": self.arrays.copy(own) if self.copy else own}

    def stops(self, of_whole_rows: bool = False) -> dict[str, Array]:
        """``stop_tokens`` ``[B, K]`` and ``stop_column`` ``[B, 1]`` (see `textenv.lm.early_stops`),
        for the next tokens, or ``of_whole_rows``, without replies.

        Empty if every stop token is legal from the start on.
        """
        if not self.min_new_tokens:
            return {}
        first = self.prompt_lengths + (self.min_new_tokens - 1)
        if self.dialogues and not of_whole_rows:
            first = first + self.replied
        return {"stop_tokens": self.arrays.copy(self.stop_tokens), "stop_column": first[:, None]}

    def observation(self) -> dict[str, Array]:
        """``input_ids`` and ``attention_mask``, each ``[B, L]``, `own_columns` and `stops`."""
        tokens, mask = self.tokens[:, : self.max_length], self.mask[:, : self.max_length]
        if self.copy:
            tokens, mask = self.arrays.copy(tokens), self.arrays.copy(mask)
        parts = {"input_ids": tokens, "attention_mask": mask}
        parts |= self.own_columns() | self.stops()
        if self.arrays.numpy:
            return parts
        observation = TokenObservation(parts)
        observation.origin = self.origin
        if self.arrays.device.type == "cpu" and not self.running.all():
            observation.running = self.running.clone()
        return observation
