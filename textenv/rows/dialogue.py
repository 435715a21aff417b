"""The turns of dialogues: what is replied to a turn that ends, and which episodes end with it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from textenv.arrays import Array, to_host, to_tensor
from textenv.dialogues.respond import RespondError
from textenv.episode import Episode, Turn
from textenv.rows import infos as columns
from textenv.rows.starts import Starts
from textenv.rows.token_table import TokenTable
from textenv.rows.transcripts import DECODED_BEFORE, texts_from
from textenv.task import TextTask

Infos = dict[str, Any]

NOTHING = np.zeros(0, np.int64)
NOTHING.flags.writeable = False


class Dialogue:
    """The turns of the rows of a token table.

    A turn ends by a stop, by ``max_turn_tokens``, or with the token budget; ``respond`` is then
    asked, whatever it was. The episode ends if it says so, after ``max_turns``, or with the budget;
    otherwise the reply is appended, within the same step.
    """

    def __init__(self, task: TextTask, table: TokenTable, starts: Starts):
        self.task, self.table, self.starts = task, table, starts
        self.turns: list[list[Turn]] = [[] for _ in range(table.num_rows)]
        self.reasons = [""] * table.num_rows  # for which episodes have ended
        self.replies_cut = np.zeros(table.num_rows, np.int64)
        self.objects = [task.respond.object_of_row() for _ in range(table.num_rows)]

    def begin(self, rows: np.ndarray, seeds: Sequence[int]) -> None:
        """Begin the episodes of some rows (indices), whose chance outside the policy has seeds."""
        for row, seed in zip(rows.tolist(), seeds, strict=True):
            self.turns[row], self.reasons[row], self.replies_cut[row] = [], "", 0
            if self.objects[row] is not None:
                self.task.respond.begin(row, self.objects[row], self.episode(row), seed)

    def episode(self, row: int) -> Episode:
        """The dialogue of a row so far."""
        turns = self.turns[row]
        prompt = self.starts.prompt_of(row)
        ids = np.concatenate([turn.ids for turn in turns] or [np.zeros(0, np.int64)])
        text = "\n".join(turn.text for turn in turns)
        return Episode(
            prompt.text, text, prompt.ids, ids, self.reasons[row], prompt.data, tuple(turns)
        )

    def after(self, stops: Array) -> tuple[Array, Infos]:
        """After a token was appended: reply where turns have ended. Which episodes end with it,
        ``[B]`` bool, and the infos of the step.

        ``stops`` ``[B]``: rows that have stopped. If ``respond`` fails, the episodes whose turns
        have ended are over, and a `RespondError`, or of one that takes too long a RewardError, says
        why.
        """
        table, task = self.table, self.task
        spent = table.budget_spent()
        over = stops | spent
        if task.max_turn_tokens is not None:
            over = over | (table.turn_lengths() >= task.max_turn_tokens)
        over = over & table.running
        every = (over, stops, spent, table.lengths, table.turn_begins)
        host = [part.numpy().copy() for part in to_host(*map(to_tensor, every))]
        on_host, stopped, used_up, lengths, begins = host
        table.origin = table.origin._replace(lengths=lengths)
        rows = np.flatnonzero(on_host)
        if not len(rows):
            return over, {}
        ends = np.zeros(table.num_rows, np.bool_)
        on, appended = [], []
        try:
            replies = self._reply(rows, stopped, lengths, begins)
            for row, reply in zip(rows.tolist(), replies, strict=True):
                if reply.end:
                    self.reasons[row] = "end"
                elif len(self.turns[row]) == task.max_turns:
                    self.reasons[row] = "turns"
                elif used_up[row]:
                    self.reasons[row] = "length"
                ends[row] = self.reasons[row] != ""
                ids, read = (NOTHING, reply.text) if ends[row] else self._append(row, reply.text)
                if not ends[row]:
                    on.append(row)
                    appended.append(ids)
                turn = self.turns[row][-1]
                answered = replace(turn, reply=read, reply_ids=ids, reward=reply.reward)
                self.turns[row][-1] = answered
        except BaseException:  # a reply that fails, takes too long, or cannot be appended
            table.end(over, over)
            raise
        if on:
            table.reply(np.array(on), appended, lengths)
        texts = [turn.reply for turn in (self.turns[row][-1] for row in rows)]
        rewards = [reply.reward for reply in replies]
        infos = columns.column("reply", on_host, texts)
        infos |= columns.column("turn_reward", on_host, rewards, np.float64)
        return table.arrays.convert(ends), infos

    def _reply(
        self, rows: np.ndarray, stopped: np.ndarray, lengths: np.ndarray, begins: np.ndarray
    ) -> list[Any]:
        """Record the turns that have ended, and ask for the replies to them."""
        tokens = self.table.tokens[self.table.arrays.convert(rows)]
        (tokens,) = to_host(to_tensor(tokens))
        whole = [ids[:end] for ids, end in zip(tokens.numpy(), lengths[rows], strict=True)]
        rule = self.task.stop_rule
        texts = texts_from(begins[rows], whole, stopped[rows], rule, DECODED_BEFORE)
        for row, ids, text in zip(rows.tolist(), whole, texts, strict=True):
            own = ids[begins[row] :].copy()
            own.flags.writeable = False
            self.turns[row].append(Turn(text, own, "stop" if stopped[row] else "length"))
        objects = [self.objects[row] for row in rows]
        episodes = [self.episode(row) for row in rows.tolist()]
        return self.task.respond.ask(rows.tolist(), objects, episodes, self.task.reward_timeout)

    def _append(self, row: int, reply: str) -> tuple[np.ndarray, str]:
        """The tokens that follow the last turn of a row, and the reply that they say."""
        turn = self.turns[row][-1]
        prompt = self.starts.prompt_of(row)
        encoder = self.task.replies[prompt.is_conversation]
        try:
            ids, read = encoder.encode(reply, int(turn.ids[-1]), self.task.max_reply_tokens)
        except ValueError as error:
            raise RespondError(
                f"respond {self.task.respond.name!r} answered what cannot be appended in row "
                f"{row}, turn {len(self.turns[row])}: {error}."
            ) from error
        ids.flags.writeable = False
        self.replies_cut[row] += len(read) < len(reply.strip())
        return ids, read

    def episodes(self, rows: np.ndarray) -> list[Episode]:
        """The dialogues of some rows (indices) that have ended."""
        return [self.episode(row) for row in rows.tolist()]

    def rewards(self, mask: np.ndarray, num_steps: int) -> np.ndarray:
        """The rewards of turns at their last tokens ``[N, T]``, of the rows of a mask."""
        rewards = np.zeros((int(mask.sum()), num_steps))
        for rewarded, row in zip(rewards, np.flatnonzero(mask), strict=True):
            ends = np.cumsum([len(turn.ids) for turn in self.turns[row]]) - 1
            rewarded[ends] = [turn.reward for turn in self.turns[row]]
        return rewards

    def totals(self, mask: np.ndarray) -> np.ndarray:
        """The sums ``[N]`` of the rewards of turns, of the rows of a mask."""
        rows = np.flatnonzero(mask)
        return np.array([sum(turn.reward for turn in self.turns[row]) for row in rows])

    def of_ends(self, mask: np.ndarray) -> Infos:
        """The infos of episodes that end: the whole text, and numbers of turns, of tokens that were
        replied, of turns that were cut, and of replies that were."""
        turns = [self.turns[row] for row in np.flatnonzero(mask)]
        counts = {
            "turns": [len(each) for each in turns],
            "reply_length": [sum(len(turn.reply_ids) for turn in each) for each in turns],
            "turns_cut": [sum(t.finish_reason == "length" for t in each) for each in turns],
            "replies_cut": self.replies_cut[mask],
        }
        texts = [self.episode(row).transcript for row in np.flatnonzero(mask).tolist()]
        infos = columns.column("transcript", mask, texts)
        for key, values in counts.items():
            infos |= columns.column(key, mask, values, np.int64)
        return infos

    def state_dict(self) -> dict[str, Any]:
        """All turns so far, as data, and the states of the objects of a class."""
        state: dict[str, Any] = {
            "turns": [[vars(turn) for turn in each] for each in copy.deepcopy(self.turns)],
            "reasons": list(self.reasons),
            "replies_cut": self.replies_cut.copy(),
        }
        if self.objects[0] is not None:
            if not hasattr(self.objects[0], "state_dict"):
                raise TypeError(f"respond {self.task.respond.name!r} has no state_dict.")
            state["objects"] = [each.state_dict() for each in self.objects]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the dialogues of a `state_dict` were."""
        self.turns = [[Turn(**turn) for turn in each] for each in state["turns"]]
        self.reasons = list(state["reasons"])
        self.replies_cut = np.array(state["replies_cut"], np.int64)
        for each, saved in zip(self.objects, state.get("objects", ()), strict=False):
            each.load_state_dict(saved)
