"""TextGenVectorEnv: a batch of episodes as the rows of one token table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from textenv.arrays import Arrays, host, tensor
from textenv.episode import Episode
from textenv.lm.loading import load_model, load_tokenizer
from textenv.prompts import encode_prompts, load_prompts
from textenv.rendering import coloured
from textenv.rewards import resolve_reward, score_episodes
from textenv.shaping import KLShaping
from textenv.sharing import SpecOfLiveObjects, live
from textenv.stopping import StopRule

# Asking an accelerator whether every row has ended makes the host wait for it; so ask rarely.
STEPS_BETWEEN_QUESTIONS = 8


class TextGenVectorEnv(SpecOfLiveObjects, VectorEnv):
    """Token generation for ``num_envs`` rows at once; each row is an episode of `TextGenEnv`.

    The Markov decision process and most arguments are those of `textenv.TextGenEnv`. Row i, seeded
    with ``seed + i``, behaves exactly as that environment does. All rows live in one token table
    ``[num_envs, L]``: there are no subprocesses and no copies of history. In torch mode with batch
    scoring and without stop strings, nothing waits for the device until the episodes are scored.

    Args:
        num_envs: B, the number of rows.
        autoreset_mode: what follows the end of a row's episode, a `gymnasium.vector.AutoresetMode`
            or its value. NEXT_STEP (Gymnasium's default): the next step resets the row and ignores
            its action. SAME_STEP: the same step resets it; ``infos["final_obs"]`` and
            ``infos["final_info"]`` tell how it ended. DISABLED: you reset it, with
            ``reset(options={"reset_mask": mask})``.
        scoring: when scores and reference log-probabilities are worked out.
            ``"step"``: each episode is scored when it ends, every step returns its shaped reward.
            ``"batch"`` (only with DISABLED): rows that have ended wait, their actions ignored,
            until the last one ends; then the reward is called once with all episodes, the reference
            scores all rows in one forward pass, all rows report ``terminated`` together, each with
            the shaped return of its whole episode, and ``infos["token_rewards"]`` ``[B, T]``,
            ``infos["token_kl"]`` ``[B, T]`` and ``infos["response_length"]`` ``[B]`` break it down.
        group_size: G consecutive rows get the same prompt, as GRPO and RLOO want it.
        array: ``"numpy"`` or ``"torch"``, the kind of actions, observations, rewards and of what
            infos hold for each token; scores, lengths and texts are numpy in either case.
        device: where the token table (torch mode), the reference and a reward model live.
        copy: hand out copies of the token table. False hands out views that the next step changes:
            quicker, and right for a client that does not keep observations.

    Raises:
        ValueError: an argument does not fit; the message names it, its value and the mend.
    """

    metadata = {  # noqa: RUF012
        "render_modes": ["ansi"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        tokenizer: Any = "bundled",
        prompts: Any = "bundled",
        reward: Any = "sentiment",
        max_new_tokens: int = 24,
        min_new_tokens: int = 0,
        stop: Sequence[str | int] | str | int | None = None,
        max_prompt_tokens: int | None = None,
        reference: Any = None,
        kl_coef: Any = 0.0,
        kl_estimator: str = "k1",
        no_stop_penalty: float = 0.0,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        scoring: str = "step",
        group_size: int = 1,
        array: str = "numpy",
        device: str | torch.device = "cpu",
        copy: bool = True,
    ):
        _require(max_new_tokens >= 1, f"max_new_tokens={max_new_tokens} must be at least 1.")
        _require(
            0 <= min_new_tokens <= max_new_tokens,
            f"min_new_tokens={min_new_tokens} must be between 0 and max_new_tokens="
            f"{max_new_tokens}.",
        )
        _require(
            num_envs >= 1 and group_size >= 1 and num_envs % group_size == 0,
            f"num_envs={num_envs} must be a multiple of group_size={group_size}, both at least 1.",
        )
        _require(
            np.isfinite(no_stop_penalty), f"no_stop_penalty={no_stop_penalty} must be a number."
        )
        self.num_envs, self.group_size = num_envs, group_size
        self.max_new_tokens, self.min_new_tokens = max_new_tokens, min_new_tokens
        self.no_stop_penalty = no_stop_penalty
        self.tokenizer = load_tokenizer(live(tokenizer))
        self.prompts = encode_prompts(
            load_prompts(live(prompts)), self.tokenizer, max_prompt_tokens
        )
        self.reward = resolve_reward(live(reward), device)
        self.stop = StopRule(self.tokenizer, live(stop))
        # A mode that is not ours (SB3 asks everyone for "rgb_array") means no rendering.
        self.render_mode = render_mode if render_mode in self.metadata["render_modes"] else None

        vocabulary = len(self.tokenizer)
        longest = max(len(prompt.ids) for prompt in self.prompts)
        self.max_length = longest + max_new_tokens
        self.single_observation_space = gym.spaces.Dict(
            input_ids=gym.spaces.Box(0, vocabulary - 1, (self.max_length,), np.int64),
            attention_mask=gym.spaces.Box(0, 1, (self.max_length,), np.int8),
        )
        self.single_action_space = gym.spaces.Discrete(vocabulary)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self.shaping: KLShaping | None = None
        if live(reference) is not None:
            self.shaping = KLShaping(
                load_model(live(reference), device=device),
                live(kl_coef),
                kl_estimator,
                num_envs,
                self.max_length,
                vocabulary,
            )
        else:
            _require(
                live(kl_coef) == 0,
                f"kl_coef={kl_coef!r} without a reference shapes nothing: pass reference=, the "
                "model to stay close to.",
            )
        self.reconfigure(autoreset_mode, scoring, array, device, copy)

    def reconfigure(
        self,
        autoreset_mode: AutoresetMode | str,
        scoring: str,
        array: str,
        device: str | torch.device = "cpu",
        copy: bool = True,
    ) -> None:
        """Change how episodes are driven, not what they are; the next call must be ``reset``."""
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        _require(scoring in ("step", "batch"), f"scoring={scoring!r} must be 'step' or 'batch'.")
        _require(
            scoring == "step" or self.autoreset_mode == AutoresetMode.DISABLED,
            "scoring='batch' needs autoreset_mode=AutoresetMode.DISABLED, because all rows end "
            f"together; this is {self.autoreset_mode.value!r}.",
        )
        _require(array in ("numpy", "torch"), f"array={array!r} must be 'numpy' or 'torch'.")
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.scoring, self.array, self.copy = scoring, array, copy
        self._arrays = Arrays(array, device)
        self.device = self._arrays.device
        if self.shaping is not None and array == "torch":
            self.shaping.to(self.device)

        rows, columns = self.num_envs, self.max_length
        # One column more than is shown: what rows that have ended are told to write goes there.
        self._tokens = self._arrays.zeros((rows, columns + 1), np.int64)
        self._mask = self._arrays.zeros((rows, columns + 1), np.int8)
        self._rows = self._arrays.of(np.arange(rows))
        self._column = self._arrays.zeros(rows, np.int64)  # where a row's next token goes
        self._lengths = self._arrays.zeros(rows, np.int64)
        self._limits = self._arrays.zeros(rows, np.int64)  # the length at which the budget is spent
        self._prompt_lengths = self._arrays.zeros(rows, np.int64)
        self._running = self._arrays.zeros(rows, np.bool_)
        self._stopped = self._arrays.zeros(rows, np.bool_)
        self._is_stop_token = self._arrays.of(self.stop.is_stop_token)
        self._prompt_index = np.zeros(rows, np.int64)
        self._kl_coef = np.zeros(rows)  # β of the row's episode, fixed as it begins
        self._episode_kl = np.zeros(rows)
        self._token_values = np.zeros((rows, self.max_new_tokens))  # for rendering
        self._started = np.zeros(rows, np.bool_)  # rows begun since the last step
        self._some_ended = True  # whether any row is between two episodes
        self._generators: list[np.random.Generator] = []
        self._steps = 0
        self._step_log_probs: list[torch.Tensor] = []  # of the policy, in batch scoring
        self._step_kl: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._has_reset = False

    @property
    def prompt_index(self) -> np.ndarray:
        """Which of ``self.prompts`` each row's episode began with, ``[B]``."""
        return self._prompt_index.copy()

    def bind(self, policy) -> None:
        """Read ``policy.last_log_probs`` at every step, to shape rewards by KL."""
        if self.shaping is not None:
            self.shaping.bind(policy)

    # --- reset and step ---------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: row i, if it begins, is seeded with ``seed + i`` or with ``seed[i]`` (members of a
                group as their first row). None goes on with a row's generator as it is.
            options: ``"reset_mask"``, bool ``[B]``: the rows to begin, the others going on;
                ``"prompt_index"``, int ``[B]``: which prompts to begin with, instead of drawn ones.
        """
        options = options or {}
        mask = host(options.get("reset_mask", np.ones(self.num_envs, np.bool_)))
        _require(
            mask.shape == (self.num_envs,) and mask.dtype == np.bool_,
            f"options['reset_mask'] must be a bool array of the shape ({self.num_envs},).",
        )
        _require(mask.any(), "options['reset_mask'] must name at least one row.")
        _require(
            self._has_reset or mask.all(),
            "The first reset must be of all rows, with no reset_mask.",
        )
        _require(
            self.scoring == "step" or mask.all(),
            "With scoring='batch' all rows begin together: reset them all.",
        )
        if not self._generators:
            self._generators = [np.random.default_rng()] * self.num_envs
            self._seed(np.random.SeedSequence().entropy % 2**31, mask)
        if seed is not None:
            self._seed(seed, mask)
        infos = self._begin(mask, options.get("prompt_index"))
        self._has_reset = True
        self._steps = 0
        self._step_log_probs, self._step_kl = [], []
        return self._observation(), infos

    def step(self, actions):
        """Append one token to every running row.

        Args:
            actions: token ids ``[B]`` of the configured array kind.

        Returns:
            observation, rewards ``[B]``, terminated ``[B]``, truncated ``[B]`` (never), infos.
        """
        if not self._has_reset:
            raise gym.error.ResetNeeded("Call reset() before step().")
        if self._some_ended:
            self._check_may_go_on()
        actions = self._checked_actions(actions)
        running, infos = self._running, {}
        was_waiting = ~running if self._some_ended else None

        kl = self._shape(actions, infos) if self.shaping is not None else None

        self._tokens[self._rows, self._column] = actions
        self._mask[self._rows, self._column] = 1
        self._column += running
        self._lengths += running

        stops = self._is_stop_token[actions]
        if self.stop.strings:
            stops = stops | self._completed_stop_strings(actions)
        if self.min_new_tokens:
            stops = stops & (self._lengths - self._prompt_lengths >= self.min_new_tokens)
        ended = running & (stops | (self._lengths == self._limits))
        self._steps += 1

        rewards = self._arrays.zeros(self.num_envs, np.float64)
        truncated = self._arrays.zeros(self.num_envs, np.bool_)
        if kl is not None:
            rewards = rewards - self._arrays.of(self._kl_coef) * kl
        if self.scoring == "batch":
            self._stop_rows(ended, stops)
            if not self._all_ended():
                return (
                    self._observation(),
                    rewards,
                    truncated,
                    self._arrays.zeros(self.num_envs, np.bool_),
                    infos,
                )
            self._some_ended = True
            rewards, infos = self._score_batch()
            return self._observation(), rewards, ~truncated, truncated, infos

        self._some_ended = some_ended = bool(ended.any())
        if some_ended:
            self._stop_rows(ended, stops)
            rewards = rewards + self._score_ended(ended, infos)
        if self.render_mode is not None:
            self._remember_values(running | ended, rewards if kl is None else kl)
        if some_ended and self.autoreset_mode == AutoresetMode.SAME_STEP:
            infos = self._with_finals(ended, infos) | self._begin(host(ended), None)
        elif was_waiting is not None and self.autoreset_mode == AutoresetMode.NEXT_STEP:
            infos |= self._begin(host(was_waiting), None)
        return self._observation(), rewards, ended, truncated, infos

    # --- beginnings -------------------------------------------------------------------------

    def _seed(self, seed: int | Sequence[int | None], mask: np.ndarray) -> None:
        seeds = [seed + row for row in range(self.num_envs)] if np.ndim(seed) == 0 else seed
        _require(
            len(seeds) == self.num_envs,
            f"seed has {len(seeds)} entries for {self.num_envs} rows: give one int, or one each.",
        )
        for row in np.flatnonzero(mask):
            # Members of a group draw from equal streams, so that they meet the same prompts.
            row_seed = seeds[row - row % self.group_size]
            if row_seed is not None:
                self._generators[row], _ = seeding.np_random(int(row_seed))

    def _begin(self, mask: np.ndarray, prompt_index: Any) -> dict[str, Any]:
        """Put a prompt into each row of ``mask``; infos of the reset."""
        rows = np.flatnonzero(mask)
        if prompt_index is not None:
            index = host(prompt_index)
            _require(
                index.shape == (self.num_envs,)
                and index.dtype.kind in "iu"
                and bool(((index >= 0) & (index < len(self.prompts))).all()),
                f"options['prompt_index']={index.tolist()} must be {self.num_envs} whole numbers "
                f"from 0 to {len(self.prompts) - 1}, one a row.",
            )
            self._prompt_index[rows] = index[rows]
        else:
            draws = [self._generators[row].integers(len(self.prompts)) for row in rows]
            self._prompt_index[rows] = draws
        tokens = np.zeros((len(rows), self.max_length + 1), np.int64)
        attention = np.zeros((len(rows), self.max_length + 1), np.int8)
        lengths = np.zeros(len(rows), np.int64)
        for i, row in enumerate(rows):
            ids = self.prompts[self._prompt_index[row]].ids
            lengths[i] = len(ids)
            tokens[i, : len(ids)] = ids
            attention[i, : len(ids)] = 1
        at, lengths = self._arrays.of(rows), self._arrays.of(lengths)
        self._tokens[at], self._mask[at] = self._arrays.of(tokens), self._arrays.of(attention)
        self._column[at] = self._lengths[at] = self._prompt_lengths[at] = lengths
        self._limits[at] = lengths + self.max_new_tokens
        self._running[at], self._stopped[at] = True, False
        self._episode_kl[rows] = 0
        self._token_values[rows] = 0
        self._started[rows] = True
        self._some_ended = not mask.all() and bool((~self._running).any())
        if self.shaping is not None:
            self._kl_coef[rows] = self.shaping.schedule.value
        texts = [self.prompts[self._prompt_index[row]].text for row in rows]
        return self._info("prompt", mask, texts)

    def _check_may_go_on(self) -> None:
        # With SAME_STEP, this is so only where the reward raised and so nothing was reset.
        if self.autoreset_mode != AutoresetMode.NEXT_STEP:
            rows = np.flatnonzero(~host(self._running)).tolist()
            raise gym.error.ResetNeeded(
                f"The episodes of rows {rows} have ended and nothing has reset them: call reset(), "
                "or reset(options={'reset_mask': mask}) for these rows alone, before the next step."
            )

    # --- actions ----------------------------------------------------------------------------

    def _checked_actions(self, actions):
        """The actions as the configured kind of array; ids out of range are refused."""
        vocabulary = self.single_action_space.n
        if self.array == "torch":
            actions = torch.as_tensor(actions, device=self.device)
            whole = not (actions.is_floating_point() or actions.dtype == torch.bool)
        else:
            actions = np.asarray(actions)
            whole = actions.dtype.kind in "iu"
        _require(
            actions.shape == (self.num_envs,),
            f"actions have the shape {tuple(actions.shape)}, but this environment has "
            f"{self.num_envs} rows: give one token id a row.",
        )
        _require(whole, f"actions have the dtype {actions.dtype}: token ids are integers.")
        # On an accelerator, looking at the numbers would make the host wait for them.
        if self.device.type == "cpu" and (actions.min() < 0 or actions.max() >= vocabulary):
            wrong = [token for token in actions.tolist() if not 0 <= token < vocabulary]
            raise ValueError(
                f"actions contain the token id {wrong[0]}, but the vocabulary has the ids 0 to "
                f"{vocabulary - 1}."
            )
        return actions

    def _completed_stop_strings(self, actions):
        """Rows whose token completes a stop string: the tail is decoded only where it might."""
        chosen = host(actions)
        hits = np.zeros(self.num_envs, np.bool_)
        candidates = np.flatnonzero(self.stop.may_complete[chosen] & host(self._running))
        if len(candidates):
            tokens, lengths = host(self._tokens), host(self._lengths)
            begins = np.maximum(host(self._prompt_lengths), lengths - self.stop.tail)
            for row in candidates:
                hits[row] = self.stop.text_ends(tokens[row, begins[row] : lengths[row]].tolist())
        return self._arrays.of(hits)

    def _stop_rows(self, ended, stops) -> None:
        self._running &= ~ended
        self._stopped |= ended & stops
        self._column[ended] = self.max_length

    def _all_ended(self) -> bool:
        """Whether no row runs any more; on an accelerator it is asked every few steps only."""
        asks = self.device.type == "cpu" or self._steps % STEPS_BETWEEN_QUESTIONS == 0
        return self._steps == self.max_new_tokens or (asks and not bool(self._running.any()))

    # --- rewards ----------------------------------------------------------------------------

    def _shape(self, actions, infos: dict[str, Any]):
        """Ask policy and reference about these actions; returns the KL of step scoring, or None."""
        shaping = self.shaping
        if self.scoring == "batch" and not shaping.stepwise_only:
            log_probs = shaping.policy_log_probs()
            if log_probs is not None:
                self._step_log_probs.append(log_probs.detach().to(self.device))
            return None
        reference_log_probs, kl = shaping.step(
            tensor(self._tokens)[:, : self.max_length],
            tensor(self._lengths),
            torch.from_numpy(self._started.copy()),
            tensor(actions),
        )
        self._started[:] = False
        if self.scoring == "batch":
            self._step_kl.append((reference_log_probs, kl))
            return None
        running = host(self._running).copy()
        waits = ~tensor(self._running).to(reference_log_probs.device)
        infos |= {
            "ref_log_prob": self._arrays.of(reference_log_probs.masked_fill(waits, 0)),
            "_ref_log_prob": running,
        }
        if kl is None:
            return None
        kl = self._arrays.of(kl.masked_fill(waits, 0))
        self._episode_kl += host(kl)
        infos |= {"kl": kl, "_kl": running}
        return kl

    def _score_ended(self, ended, infos: dict[str, Any]):
        """Step scoring: scores ``[B]`` of the episodes that have just ended, and their infos."""
        ended = host(ended)
        scores = self._score(ended, infos)
        terminal = np.zeros(self.num_envs)
        terminal[ended] = scores
        if self.shaping is not None and self.shaping.policy is not None:
            self.shaping.schedule.update(float(self._episode_kl[ended].mean()), int(ended.sum()))
        return self._arrays.of(terminal)

    def _score_batch(self):
        """Batch scoring: all rows have ended. Their returns, and infos that break them down."""
        infos: dict[str, Any] = {}
        everywhere = np.ones(self.num_envs, np.bool_)
        scores = tensor(self._arrays.of(self._score(everywhere, infos)))
        prompt_lengths = tensor(self._prompt_lengths)
        response_lengths = tensor(self._lengths) - prompt_lengths
        steps = torch.arange(int(response_lengths.max()), device=self.device)
        mask = steps < response_lengths[:, None]
        token_rewards = torch.zeros(mask.shape, dtype=scores.dtype, device=self.device)
        token_rewards.scatter_(1, response_lengths[:, None] - 1, scores[:, None])
        if self.shaping is not None:
            reference_log_probs, kl = self._batch_kl(mask, prompt_lengths, steps)
            infos["ref_log_probs"] = self._arrays.of(reference_log_probs)
            infos["_ref_log_probs"] = everywhere.copy()
            if kl is not None:
                token_rewards -= tensor(self._arrays.of(self._kl_coef))[:, None] * kl
                infos |= {"token_kl": self._arrays.of(kl), "_token_kl": everywhere.copy()}
                self.shaping.schedule.update(float(kl.sum(1).mean()), self.num_envs)
        infos |= {
            "token_rewards": self._arrays.of(token_rewards),
            "_token_rewards": everywhere.copy(),
        }
        if self.render_mode is not None:
            values = infos.get("token_kl", infos["token_rewards"])
            self._token_values[:, : len(steps)] = host(values)
        return self._arrays.of(token_rewards.sum(dim=1)), infos

    def _batch_kl(self, mask: torch.Tensor, prompt_lengths: torch.Tensor, steps: torch.Tensor):
        """Reference log-probs and KL ``[B, T]`` of whole responses, 0 off the mask."""
        if self.shaping.stepwise_only:
            every = [
                None if part[0] is None else _responses(part, mask)
                for part in zip(*self._step_kl, strict=True)
            ]
            return every[0], every[1]
        tokens = tensor(self._tokens)
        columns = (prompt_lengths[:, None] + steps).clamp(max=self.max_length)
        reference_log_probs = self.shaping.score(
            tokens[:, : self.max_length], prompt_lengths, tokens.gather(1, columns), mask
        ).to(self.device)
        if not self._step_log_probs:
            return reference_log_probs, None
        log_probs = _responses(self._step_log_probs, mask)
        return reference_log_probs, self.shaping.kl(log_probs, reference_log_probs)

    def _score(self, ended: np.ndarray, infos: dict[str, Any]) -> np.ndarray:
        """Scores of the rows in ``ended``, penalties included; fills the infos of a last step."""
        episodes = self._episodes(np.flatnonzero(ended))
        scores = score_episodes(self.reward, episodes)
        stopped = np.array([episode.finish_reason == "stop" for episode in episodes])
        scores = scores - self.no_stop_penalty * ~stopped
        infos |= self._info("response", ended, [episode.response for episode in episodes])
        lengths = [len(episode.response_ids) for episode in episodes]
        infos |= self._info("response_length", ended, lengths, np.int64)
        infos |= self._info("score", ended, scores, np.float64)
        infos |= self._info("finish_reason", ended, [e.finish_reason for e in episodes])
        return scores

    def _episodes(self, rows: np.ndarray) -> list[Episode]:
        tokens, lengths = host(self._tokens), host(self._lengths)
        stopped = host(self._stopped)
        whole = [tokens[row, : lengths[row]].copy() for row in rows]
        prompts = [self.prompts[self._prompt_index[row]] for row in rows]

        def decode(sequences: list[np.ndarray]) -> list[str]:
            return self.tokenizer.batch_decode(sequences, skip_special_tokens=True)

        # Tokenizers of the SentencePiece kind drop the space before the first token that they
        # decode, so a response is decoded behind its prompt.
        texts, heads = decode(whole), decode([prompt.ids for prompt in prompts])
        episodes = []
        for row, ids, prompt, text, head in zip(rows, whole, prompts, texts, heads, strict=True):
            split = len(prompt.ids)
            response = text[len(head) :] if text.startswith(head) else decode([ids[split:]])[0]
            if stopped[row] and not self.stop.is_stop_token[ids[-1]]:
                response = self.stop.without_stop_string(response)
            reason = "stop" if stopped[row] else "length"
            episodes.append(
                Episode(prompt.text, response, ids[:split], ids[split:], reason, prompt.data)
            )
        return episodes

    # --- what goes out ----------------------------------------------------------------------

    def _observation(self) -> dict[str, Any]:
        tokens, mask = self._tokens[:, : self.max_length], self._mask[:, : self.max_length]
        if self.copy:
            tokens, mask = self._arrays.copy(tokens), self._arrays.copy(mask)
        return {"input_ids": tokens, "attention_mask": mask}

    def _info(self, key: str, mask: np.ndarray, values: Sequence, dtype: Any = object):
        """A column of infos as Gymnasium has it: an array of all rows, and which have it."""
        column = np.full(self.num_envs, None if dtype is object else 0, dtype=dtype)
        column[mask] = values
        return {key: column, f"_{key}": mask.copy()}

    def _with_finals(self, ended, infos: dict[str, Any]) -> dict[str, Any]:
        """SAME_STEP: put what belongs to the episodes that ended under ``final_obs/final_info``."""
        ended = host(ended).copy()
        rows = np.flatnonzero(ended)
        observation = {key: value[rows] for key, value in self._observation().items()}  # copies
        final_obs = np.full(self.num_envs, None, dtype=object)
        for i, row in enumerate(rows):
            final_obs[row] = {key: value[i] for key, value in observation.items()}
        final_info: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for key in [key for key in infos if not key.startswith("_")]:
            has = infos[f"_{key}"]
            for part, rows_of_part in ((final_info, has & ended), (others, has & ~ended)):
                if rows_of_part.any():
                    part.update({key: infos[key], f"_{key}": rows_of_part})
        return others | {
            "final_obs": final_obs,
            "_final_obs": ended,
            "final_info": final_info,
            "_final_info": ended.copy(),
        }

    def _remember_values(self, stepped, values) -> None:
        """For rendering: the KL or the reward of the tokens that these rows have just got."""
        rows = np.flatnonzero(host(stepped))
        at = host(self._lengths - self._prompt_lengths)[rows] - 1
        self._token_values[rows, at] = host(values)[rows]

    def render(self) -> tuple[str, ...] | None:
        """``"ansi"``: each row's text, its tokens coloured by their KL, or else by their reward."""
        if self.render_mode is None:
            return None
        tokens, lengths = host(self._tokens), host(self._lengths)
        texts = []
        for row in range(self.num_envs):
            prompt = self.prompts[self._prompt_index[row]]
            response = tokens[row, len(prompt.ids) : lengths[row]]
            pieces = [self.tokenizer.decode([token]) for token in response]
            texts.append(prompt.text + coloured(pieces, self._token_values[row, : len(pieces)]))
        return tuple(texts)


def _responses(steps: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """What was noted step by step, ``[B]`` each, as rows ``[B, T]``; 0 off the mask."""
    every = torch.stack(list(steps), dim=1)[:, : mask.shape[1]].to(mask.device)
    return every.masked_fill(~mask, 0)  # a waiting row may have nan or -inf there


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    for known in AutoresetMode:
        if str(mode).lower() in (known.value.lower(), known.name.lower()):
            return known
    raise ValueError(
        f"autoreset_mode={mode!r} is unknown: use one of "
        f"{', '.join(repr(known.name) for known in AutoresetMode)}."
    )
