"""TextGenVectorEnv: a batch of episodes as the rows of one token table.

This module defines the order of a reset and of a step. Their parts are in `textenv.rows`, and the
KL in `textenv.kl.shaping`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from textenv.arguments import (
    Range,
    check_limit,
    check_names,
    check_ranges,
    checked_options,
    takes,
)
from textenv.arrays import Arrays, to_numpy
from textenv.kl.shaping import KLShaping
from textenv.lm.vocabulary import check_same_tokenizer
from textenv.rendering.ansi import MODES, Renderer, checked_mode
from textenv.rows import infos as columns
from textenv.rows.dialogue import Dialogue
from textenv.rows.scoring import SCORINGS, check_scoring
from textenv.rows.starts import Starts
from textenv.rows.stops import Stops, action_masks
from textenv.rows.token_table import TokenTable
from textenv.sharing import SpecOfLiveObjects
from textenv.task import TextTask


@takes(TextTask)
class TextGenVectorEnv(SpecOfLiveObjects, VectorEnv):
    """Token generation for ``num_envs`` rows at once; each row is an episode of `TextGenEnv`.

    Row i, seeded with ``seed + i``, behaves exactly as that environment does. All rows are in one
    token table ``[num_envs, L]``: there are no subprocesses and no copies of history. In torch mode
    with batch scoring and without stop strings, nothing waits for the device until the episodes are
    scored.

    Args:
        num_envs: B, the number of rows.
        **task
        text_info: whether infos have texts. False is for tools that stack infos (`TextGenEnv`).
        render_mode: "ansi" or "rgb_array", a text or a picture for each row; or None.
        autoreset_mode: what happens after a row's episode ends, a `gymnasium.vector.AutoresetMode`
            or its value. NEXT_STEP (Gymnasium's default): the next step resets the row and ignores
            its action. SAME_STEP: the same step resets it; ``infos["final_obs"]`` and
            ``infos["final_info"]`` describe its end. DISABLED: you reset it, with
            ``reset(options={"reset_mask": mask})``.
        scoring: when scores and reference log-probabilities are computed.
            ``"step"``: each episode is scored when it ends, every step returns its shaped reward.
            ``"batch"`` (only with DISABLED): rows that have ended wait until the last one ends, and
            their actions are ignored. Then the reward is called once with all episodes, the
            reference scores all rows in one forward pass, and all rows are ``terminated``, each
            with the shaped return of its whole episode. ``infos["token_rewards"]`` ``[B, T]``,
            ``infos["token_kl"]`` ``[B, T]`` and ``infos["response_length"]`` ``[B]`` give details.
        group_size: G consecutive rows get the same prompt, as GRPO and RLOO need it.
        array: ``"numpy"`` or ``"torch"``, the kind of the arrays of actions, observations, rewards
            and the infos of each token; other infos, and all with text_info=False, are numpy.
        device: the device of the token table (torch mode), the reference and a reward model.
        copy: return copies of the token table. False returns views that the next step changes,
            which is faster, and correct for a client that does not keep observations.
        max_episode_steps: of a registration; at least ``max_new_tokens``, which ends episodes.

    Raises:
        ValueError: an argument is not valid; the message names it, its value and the fix.
    """

    metadata = {  # noqa: RUF012
        "render_modes": list(MODES), "render_fps": 4, "autoreset_mode": AutoresetMode.NEXT_STEP,
    }  # fmt: skip

    def __init__(
        self,
        num_envs: Annotated[int, Range(1)] = 1,
        *,
        text_info: bool = True,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        scoring: str = "step",
        group_size: Annotated[int, Range(1)] = 1,
        array: str = "numpy",
        device: str | torch.device = "cpu",
        copy: bool = True,
        max_episode_steps: int | None = None,
        **task: Any,
    ):
        check_names(TextGenVectorEnv, task)
        check_ranges(TextGenVectorEnv.__init__, {"num_envs": num_envs, "group_size": group_size})
        if num_envs % group_size:
            raise ValueError(f"num_envs={num_envs} must be a multiple of group_size={group_size}.")
        self.num_envs, self.group_size, self._policy = num_envs, group_size, None
        self.task = TextTask(device=device, **task)
        self.tokenizer, self.prompts = self.task.tokenizer, self.task.prompts
        self.max_length, self.max_new_tokens = self.task.max_length, self.task.max_new_tokens
        check_limit(max_episode_steps, self.max_new_tokens)
        self.render_mode, self.text_info = checked_mode(render_mode), text_info
        spaces = self.single_observation_space, self.single_action_space = self.task.spaces
        self.observation_space, self.action_space = (batch_space(s, num_envs) for s in spaces)
        self.shaping = None if self.task.reference is None else KLShaping(self.task, num_envs)
        self.reconfigure(autoreset_mode, scoring, array, device, copy)
        self._fixed = frozenset(self.task.arguments)

    def reconfigure(
        self,
        autoreset_mode: AutoresetMode | str,
        scoring: str,
        array: str,
        device: str | torch.device = "cpu",
        copy: bool = True,
    ) -> None:
        """Change how episodes are run, not their content; the next call must be ``reset``."""
        self.autoreset_mode = autoreset_mode_of(autoreset_mode)
        check_scoring(scoring, self.autoreset_mode, self.text_info)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.scoring, self.array = scoring, array
        arrays, rows = Arrays(array, device), self.num_envs
        self.device, first_stops = arrays.device, self.task.stop_rule.first_stops
        if self.shaping is not None and array == "torch":
            self.shaping.to(self.device)
        self._table = table = TokenTable(
            rows, self.max_length, arrays, copy, first_stops, self.task.respond is not None
        )
        self._stops = Stops(self.task.stop_rule, table)
        self._starts = Starts(self.prompts, rows, self.group_size)
        self._renderer = Renderer(self.render_mode, rows, self.task)
        self._dialogue = None
        if self.task.respond is not None:
            self._dialogue = Dialogue(self.task, table, self._starts)
        self._scoring = SCORINGS[scoring](
            self.task, self.shaping, table, self._starts, self._dialogue
        )
        self._some_ended, self._has_reset = True, False  # some row is between two episodes

    @property
    def prompt_index(self) -> np.ndarray:
        """Which of ``self.prompts`` each row's episode began with, ``[B]``."""
        return self._starts.prompt_index.copy()

    @property
    def running(self) -> Any:
        """Rows whose episodes have not ended, bool ``[B]`` of the configured array kind."""
        return self._table.running

    def action_masks(self) -> np.ndarray:
        """Which tokens make sense, bool ``[B, vocabulary]`` (`textenv.TextGenEnv.action_masks`)."""
        return action_masks(self._table, self.task.spaces[1], self._policy)

    def bind(self, policy: Any, row: int | None = None) -> None:
        """Read ``policy.action_record`` at every step, to shape rewards by KL; None unbinds.

        ``policy`` is a `textenv.kl.shaping.BoundPolicy`; if it acts for several environments,
        ``row`` is the index of this one in its records. A policy whose model has another tokenizer,
        or is the reference itself, is a ValueError.
        """
        model = getattr(policy, "model", None)
        if model is not None:
            check_same_tokenizer(self.tokenizer, model, "The policy")
        self._policy = policy
        if self.shaping is not None:
            self.shaping.bind(policy, row)

    def sibling(self, num_envs: int, **changes: Any) -> TextGenVectorEnv:
        """Another environment of the same task with its own random numbers, for an evaluation.

        Tokenizer, prompts, reward and reference are shared; rewards are not shaped.
        """
        # `reconfigure` has moved the reference to the device of tensors.
        moved = {"device": self.device} if self.array == "torch" else {}
        return TextGenVectorEnv(num_envs, **self.task.sibling_arguments() | moved | changes)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: row i, if it is reset, is seeded with ``seed + i`` or with ``seed[i]`` (a group
                with the seed of its first row). None continues with the current generators.
            options: ``"reset_mask"``, bool ``[B]``: the rows to reset, the others continue;
                ``"prompt_index"``, int ``[B]``: the prompts to begin with, instead of random ones.
        """
        options = checked_options(options, ("reset_mask", "prompt_index"))
        may_be_some = self._has_reset and self.scoring == "step"
        mask = self._starts.checked_mask(options.get("reset_mask"), may_be_some)
        if not self._starts.seeded:
            self._starts.seed_by_chance()
        if seed is not None:
            self._starts.seed(seed, mask)
        if options.get("prompt_index") is None:
            self._starts.draw(mask, together=True)
        else:
            self._starts.choose(mask, options["prompt_index"])
        infos = self._begin(mask, {}, together=True)
        self._has_reset = True
        return self._table.observation(), infos

    def step(self, actions):
        """Append one token to every running row, of ids ``[B]`` of the configured array kind.

        Returns observation, rewards ``[B]``, terminated ``[B]``, truncated ``[B]`` (all False) and
        infos.
        """
        self._check_may_step()
        table, scoring = self._table, self._scoring
        actions = table.checked(actions, self.single_action_space.n)
        waiting = to_numpy(~table.running) if self._some_ended else None
        scoring.record_actions(actions)
        table.append(actions)
        stops, replies, of_turns = self._stops.after(actions), dict[str, Any](), None
        if self._dialogue is None:
            ended = table.running & (stops | table.budget_spent())
        else:
            scoring.check_actions(table.running)
            self._some_ended = True  # if `respond` fails
            ended, replies = self._dialogue.after(stops)
            of_turns = replies.get("turn_reward")
        self._some_ended = finished = scoring.finish_rows(ended, stops)
        rewards, terminated, infos = scoring.rewards(ended, finished, of_turns)
        infos = self._shown(replies | infos)
        if self.render_mode is not None:
            self._renderer.remember(table.response_lengths(), waiting, rewards, infos)

        if finished and self.autoreset_mode == AutoresetMode.SAME_STEP:
            mask = to_numpy(ended)
            infos = columns.with_finals(mask, infos, table.observation())
            self._starts.draw(mask, together=False)
            infos = self._begin(mask, infos)
        elif waiting is not None and self.autoreset_mode == AutoresetMode.NEXT_STEP:
            self._starts.draw(waiting, together=False)
            infos = self._begin(waiting, infos)
        truncated = table.arrays.zeros(self.num_envs, np.bool_)
        return table.observation(), rewards, terminated, truncated, infos

    def _begin(
        self, mask: np.ndarray, infos: dict[str, Any], together: bool = False
    ) -> dict[str, Any]:
        """Put the drawn prompts into the rows of ``mask``; the infos, with those of the reset.
        ``together`` as of `Starts.draw`."""
        rows = np.flatnonzero(mask)
        prompts = self._starts.current_prompts(rows)
        self._table.begin(rows, [prompt.ids for prompt in prompts], self.task.max_new_tokens)
        if self._dialogue is not None:
            self._dialogue.begin(rows, self._starts.chances(mask, together))
        self._scoring.begin(mask)
        self._renderer.begin(rows)
        if self.shaping is not None:
            self.shaping.begin(rows)
        self._some_ended = not mask.all() and bool((~self._table.running).any())
        texts = columns.column("prompt", mask, [prompt.text for prompt in prompts])
        return self._shown(infos | texts)

    def _shown(self, infos: dict[str, Any]) -> dict[str, Any]:
        if self.text_info:
            return infos
        bound = self.shaping is not None and self.shaping.policy is not None
        return columns.as_numbers(infos, self.task, bound, self.prompt_index)

    def render(self) -> tuple[Any, ...] | None:
        """Each row's text, as ``"ansi"`` or a picture, coloured by the KL, or else the reward."""
        if self.render_mode is None:
            return None
        prompts = self._starts.current_prompts(np.arange(self.num_envs))
        own = self._table.own_columns().get("own_tokens")
        return self._renderer.render(self._table.tokens, self._table.lengths, prompts, own)

    def state_dict(self) -> dict[str, Any]:
        """The state between two steps, as data: random generators, and the rows that are running.

        With ``scoring="batch"`` there are no such rows: an unfinished batch begins again.
        """
        state: dict[str, Any] = {"starts": self._starts.state_dict()}
        if self.scoring == "step" and self._has_reset:
            kl_coef = {} if self.shaping is None else {"kl_coef": self.shaping.kl_coef.copy()}
            state |= {"table": self._table.state_dict(), "some_ended": self._some_ended, **kl_coef}
            if self._dialogue is not None:
                state["dialogue"] = self._dialogue.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the environment of a `state_dict` was."""
        self._starts.load_state_dict(state["starts"])
        self._has_reset = "table" in state
        if "table" in state:
            self._table.load_state_dict(state["table"])
            self._some_ended = bool(state["some_ended"])
            if self._dialogue is not None:
                self._dialogue.load_state_dict(state["dialogue"])
        if self.shaping is not None:
            self.shaping.forget()
            if "kl_coef" in state:
                self.shaping.kl_coef[:] = state["kl_coef"]

    def _check_may_step(self) -> None:
        if not self._has_reset:
            raise gym.error.ResetNeeded("Call reset() before step().")
        # With SAME_STEP this is the case only after an error in the reward, before any reset.
        if self._some_ended and self.autoreset_mode != AutoresetMode.NEXT_STEP:
            self._table.require_running()


def autoreset_mode_of(mode: AutoresetMode | str) -> AutoresetMode:
    """The mode of a name, a value, or itself."""
    if isinstance(mode, AutoresetMode):
        return mode
    for known in AutoresetMode:
        if str(mode).lower() in (known.value.lower(), known.name.lower()):
            return known
    names = ", ".join(repr(known.name) for known in AutoresetMode)
    raise ValueError(f"autoreset_mode={mode!r} is unknown: use one of {names}.")
