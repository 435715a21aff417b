"""When a reward function is called, and how its scores become the rewards of tokens.

`StepScoring` scores each episode when it ends; `BatchScoring` scores all of them when the last one
has ended. A step of the environment calls `record_actions` before it appends the actions, then
`finish_rows` for the rows that end, and then `rewards`.
"""

from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from textenv.arrays import Array, to_host, to_numpy, to_tensor
from textenv.kl.estimators import k1
from textenv.kl.shaping import KLShaping, shaped_reward
from textenv.lm.early_stops import next_early_stops
from textenv.rewards import score_within_limits
from textenv.rows import infos as columns
from textenv.rows.dialogue import Dialogue
from textenv.rows.starts import Starts
from textenv.rows.token_table import TokenTable
from textenv.rows.transcripts import transcribe
from textenv.task import TextTask

# To check on an accelerator whether every row has ended makes the host wait, so check rarely.
STEPS_BETWEEN_QUESTIONS = 8
Infos = dict[str, Any]


class Scoring:
    """What both have in common: the reward of a task is called with episodes that have ended."""

    def __init__(
        self,
        task: TextTask,
        shaping: KLShaping | None,
        table: TokenTable,
        starts: Starts,
        dialogue: Dialogue | None = None,
    ):
        self.task, self.shaping, self.table, self.starts = task, shaping, table, starts
        self.dialogue = dialogue

    def score(self, mask: np.ndarray) -> tuple[np.ndarray, Infos]:
        """The rewards ``[N]`` of the rows of ``mask`` (bool ``[B]``) at their last tokens, without
        KL: the score, minus the penalty of an episode that never stopped.

        In the infos, ``score`` is the value that the reward returned, plus the rewards of turns,
        which are paid at their own ends; these, the penalty and the parts of a weighted sum have
        their own entries.
        """
        rows, task, dialogue = np.flatnonzero(mask), self.task, self.dialogue
        if dialogue is None:
            prompts = self.starts.current_prompts(rows)
            episodes = transcribe(self.table, rows, prompts, task.stop_rule)
        else:
            episodes = dialogue.episodes(rows)
        scores, parts = score_within_limits(
            task.reward, episodes, task.reward_timeout, task.reward_retries
        )
        if dialogue is None:
            infos = columns.last_step(mask, episodes, scores)
        else:
            parts = parts | {"turns": dialogue.totals(mask)}
            infos = columns.last_step(mask, episodes, scores + parts["turns"])
            infos |= dialogue.of_ends(mask)
        for name, part in parts.items():
            infos |= columns.column(f"score/{name}", mask, part, np.float64)
        if task.no_stop_penalty == 0:
            return scores, infos
        never_stopped = np.array([episode.finish_reason == "length" for episode in episodes])
        penalties = task.no_stop_penalty * never_stopped
        return scores - penalties, infos | columns.column(
            "no_stop_penalty", mask, penalties, np.float64
        )


class StepScoring(Scoring):
    """Each episode is scored when it ends, and every step returns its shaped reward."""

    # log π_ref, log π, and where an action is not the policy's, of this step.
    _recorded: tuple[Tensor, Tensor | None, Tensor] | None = None
    # The rows that ran before this step, and those that it has ended, on the host.
    _ran = _ended = np.zeros(0, np.bool_)

    def begin(self, mask: np.ndarray) -> None:
        """Rows have been reset; there is nothing to clear."""

    def record_actions(self, actions: Array) -> None:
        """Compute the log-probabilities of the actions under the policy and the reference."""
        self._recorded = None
        if self.shaping is None:
            return
        table = self.table
        tokens, lengths, running = map(to_tensor, (table.tokens, table.lengths, table.running))
        self._recorded = self.shaping.step(
            tokens[:, : table.max_length], lengths, table.origin, to_tensor(actions), running,
            next_early_stops(table.stops(), lengths),
        )  # fmt: skip

    def check_actions(self, ended: Array) -> np.ndarray:
        """``ended`` ``[B]`` on the host. A RuntimeError says that an action is not the one that the
        policy chose; no step has been taken."""
        if self._recorded is None or self.shaping is None:
            return to_numpy(ended)
        # All that the host has to know of this step comes in one copy.
        columns = to_tensor(self.table.running), to_tensor(ended), self._recorded[2]
        ran, on_host, wrong = (column.numpy() for column in to_host(*columns))
        self._ran = ran.copy()  # on the CPU it is the table's, which is changed later
        if wrong.any():
            self.table.take_back()
            self.shaping.refuse(f"row {int(wrong.argmax())}")
        return on_host

    def finish_rows(self, ended: Array, stops: Array) -> bool:
        """End the episodes of the rows ``ended``. Returns whether episodes can be scored now."""
        # In a dialogue it was done before the reply.
        self._ended = self.check_actions(ended) if self.dialogue is None else to_numpy(ended)
        some = bool(self._ended.any())
        if some:
            self.table.end(ended, stops)
        return some

    def rewards(
        self, ended: Array, finished: bool, of_turns: np.ndarray | None = None
    ) -> tuple[Array, Array, Infos]:
        """Rewards ``[B]``, terminated ``[B]`` and infos of the step. ``of_turns``: the rewards
        ``[B]`` of turns that have ended in it."""
        arrays, infos = self.table.arrays, Infos()
        rewards = arrays.zeros(self.table.num_rows, np.float64)
        if finished:
            mask = self._ended
            paid, infos = self.score(mask)
            at_the_end = np.zeros(len(mask))
            at_the_end[mask] = paid
            rewards = arrays.convert(at_the_end)
        if of_turns is not None:
            rewards = rewards + arrays.convert(of_turns)
        if self._recorded is not None and self.shaping is not None:
            reference_log_probs, own, _ = self._recorded
            reference_log_probs = arrays.convert(reference_log_probs)
            infos |= {"ref_log_prob": reference_log_probs, "_ref_log_prob": self._ran.copy()}
            if own is not None:
                log_probs = arrays.convert(own)
                infos |= {"kl": k1(log_probs, reference_log_probs), "_kl": self._ran.copy()}
                rewards = shaped_reward(
                    rewards, log_probs, reference_log_probs, arrays.convert(self.shaping.kl_coef)
                )
        return rewards, ended, infos


class BatchScoring(Scoring):
    """Rows that have ended wait; when the last row has ended, all are scored at once."""

    _steps = 0

    def begin(self, mask: np.ndarray) -> None:
        """All rows have been reset."""
        self._steps = 0
        if self.shaping is not None:
            self.shaping.begin_batch()

    def check_actions(self, ended: Array) -> None:
        """They are checked when the batch is complete."""

    def record_actions(self, actions: Array) -> None:
        """Store the policy's record of its actions; the reference scores them at the end."""
        if self.shaping is not None:
            self.shaping.note(to_tensor(actions), to_tensor(self.table.running))
        self._steps += 1  # at the end: a step that raises an error above does not count

    def finish_rows(self, ended: Array, stops: Array) -> bool:
        """End the episodes of the rows ``ended``. Returns whether no row is running any more.

        On an accelerator this is checked only every few steps.
        """
        self.table.end(ended, stops)
        on_cpu = self.table.arrays.device.type == "cpu"
        asks = on_cpu or self._steps % STEPS_BETWEEN_QUESTIONS == 0
        return self._steps == self.task.max_new_tokens or (
            asks and not bool(self.table.running.any())
        )

    def rewards(
        self, ended: Array, finished: bool, of_turns: np.ndarray | None = None
    ) -> tuple[Array, Array, Infos]:
        """Rewards ``[B]``, terminated ``[B]`` and infos: zeros until all rows have ended. The
        rewards of turns are then known of all of them."""
        arrays, rows = self.table.arrays, self.table.num_rows
        none = arrays.zeros(rows, np.bool_)
        if not finished:
            return arrays.zeros(rows, np.float64), none, {}
        every = np.ones(rows, np.bool_)
        paid, infos = self.score(every)
        token_rewards, mask = at_the_last_token(
            to_tensor(arrays.convert(paid)), to_tensor(self.table.response_lengths()),
            int(infos["response_length"].max()),
        )  # fmt: skip
        if self.dialogue is not None:
            of_all = arrays.convert(self.dialogue.rewards(every, token_rewards.shape[1]))
            token_rewards = token_rewards + to_tensor(of_all)
        if self.shaping is not None:
            token_rewards, token_infos = self._shaped(token_rewards, mask, self.shaping)
            infos |= token_infos
        infos |= columns.everywhere("token_rewards", arrays.convert(token_rewards))
        return arrays.convert(token_rewards.sum(dim=1)), ~none, infos

    def _shaped(self, rewards: Tensor, mask: Tensor, shaping: KLShaping) -> tuple[Tensor, Infos]:
        """The token rewards ``[B, T]`` shaped by the KL, and the infos about it."""
        table, convert = self.table, self.table.arrays.convert
        begins = {
            "prompt_lengths": table.prompt_lengths, **table.stops(of_whole_rows=True),
            **table.own_columns(),
        }  # fmt: skip
        reference_log_probs = shaping.score(
            to_tensor(table.tokens)[:, : table.max_length],
            {key: to_tensor(value) for key, value in begins.items()},
            table.responses(mask),
            mask,
        ).to(mask.device)
        infos = columns.everywhere("ref_log_probs", convert(reference_log_probs))
        log_probs = shaping.noted_log_probs(mask, self._steps)
        if log_probs is None:
            return rewards, infos
        infos |= columns.everywhere("token_kl", convert(k1(log_probs, reference_log_probs)))
        kl_coef = to_tensor(convert(shaping.kl_coef))[:, None]
        return shaped_reward(rewards, log_probs, reference_log_probs, kl_coef), infos


def at_the_last_token(
    paid: Tensor, response_lengths: Tensor, num_steps: int
) -> tuple[Tensor, Tensor]:
    """``paid`` ``[B]`` at each row's last token and 0 elsewhere ``[B, T]``, and the mask ``[B, T]``
    of response tokens, with T = ``num_steps``."""
    steps = torch.arange(num_steps, device=response_lengths.device)
    mask = steps < response_lengths[:, None]
    rewards = torch.zeros(mask.shape, dtype=paid.dtype, device=mask.device)
    return rewards.scatter_(1, response_lengths[:, None] - 1, paid[:, None]), mask


SCORINGS: dict[str, type[StepScoring | BatchScoring]] = {"step": StepScoring, "batch": BatchScoring}


def check_scoring(scoring: str, mode: AutoresetMode, text_info: bool) -> None:
    """Raise a ValueError for an unknown scoring, and if batch scoring is combined with what only
    step scoring has."""
    if scoring not in SCORINGS:
        raise ValueError(f"scoring={scoring!r} must be 'step' or 'batch'.")
    if not isinstance(text_info, bool):
        raise ValueError(f"text_info={text_info!r} must be True or False.")
    if scoring == "batch" and mode != AutoresetMode.DISABLED:
        raise ValueError(
            "scoring='batch' needs autoreset_mode=AutoresetMode.DISABLED, because all rows end "
            f"together; this is {mode.value!r}."
        )
    if scoring == "batch" and not text_info:
        raise ValueError(
            "text_info=False needs scoring='step': with 'batch', which agents choose, infos "
            "describe whole episodes; leave text_info out."
        )
