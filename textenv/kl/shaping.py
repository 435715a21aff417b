"""KL shaping: each token has a cost for the distance to the reference model.

    r_t = score · [t is last] − β · (log π(a_t|s_t) − log π_ref(a_t|s_t))

The reference belongs to the environment; log π belongs to the agent, which binds its policy once.
The policy stores an `ActionRecord` each time it acts. The logged KL is the KL used in training.

Only k1 is used in the reward. Summed over an episode, its expected gradient is that of KL(π‖π_ref).
The other estimators of `textenv.kl.estimators` have another gradient in a reward; use them in
losses and logs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from textenv.arrays import Origin, to_device, to_host, to_tensor
from textenv.kl.estimators import k1
from textenv.kl.schedules import KLSchedule, resolve_schedule
from textenv.lm.parts import split, unwrapped
from textenv.lm.support import check_supported
from textenv.task import TextTask

if TYPE_CHECKING:
    from textenv.lm.log_probs import Sampling

TOKENS_AT_ONCE = 2**15  # in one forward pass; more tokens are scored in several passes


def shaped_reward(terminal, log_probs, reference_log_probs, kl_coef):
    """r_t = score·[t is last] − β·(log π(a_t|s_t) − log π_ref(a_t|s_t)).

    Ziegler et al. 2019, eq. 2. ``terminal`` is the score at the last token and 0 before it,
    log-probs are in nats, all ``[B]`` or ``[B, T]``, of numpy or of torch; β, in units of the score
    per nat, broadcasts.
    """
    return terminal - kl_coef * k1(log_probs, reference_log_probs)


class ActionRecord(NamedTuple):
    """What a policy stores each time it acts: the chosen actions and their log-probabilities.

    Make a new record, with a copy of the actions, at each act: the environment compares these
    with the actions that it is given, and uses each record once.
    """

    actions: Any  # [B], numpy or torch
    log_probs: Any  # [B], log π(a_t|s_t) in nats

    def __reduce__(self):
        # A copied policy, for instance in another process, has not acted, so it has no record.
        return type(None), ()


class BoundPolicy(Protocol):
    """What the environment reads from a bound policy."""

    action_record: ActionRecord | None  # from its latest act; None before the first
    sampling: Sampling  # temperature and bans, which the reference must use too


class KLShaping:
    """The reference model of a task for a batch of B rows, and the records of a bound policy. What
    is not valid of the reference and β is a ValueError."""

    def __init__(self, task: TextTask, num_rows: int):
        reference: Any = task.reference
        vocabulary = int(task.spaces[1].n)
        outputs = unwrapped(reference).get_output_embeddings().weight.shape[0]
        if outputs < vocabulary:
            raise ValueError(
                f"The tokenizer has {vocabulary} tokens, but the reference model only {outputs}: "
                "give a tokenizer and a reference that belong together."
            )
        # Dropout off. The weights are not frozen, because a policy that learns may share them.
        self.reference = reference.eval()
        check_supported(reference, task.max_length)
        self.schedule: KLSchedule = resolve_schedule(task.kl_coef)
        self.num_rows, self.max_length, self.vocabulary = num_rows, task.max_length, vocabulary
        self.illegal = getattr(task.spaces[1], "illegal", ())
        self.kl_coef = np.zeros(num_rows)  # β of each row's episode, set when it begins
        self.policy: BoundPolicy | None = None
        self.row: int | None = None
        self._taken: ActionRecord | None = None
        self._decoder: Any = None
        self._noted: list[tuple[Tensor, Tensor]] = []

    def bind(self, policy: Any, row: int | None = None) -> None:
        """Read log π from ``policy`` from now on, None unbinds (`TextGenVectorEnv.bind`).

        A policy that shares weights that learn with the reference is a ValueError. If a policy acts
        for several environments of one row, ``row`` is the index of this one in its records.
        """
        parameters: Any = getattr(policy, "parameters", list)()
        learning = {id(p) for p in parameters if p.requires_grad}
        if any(id(p) in learning for p in self.reference.parameters()):
            raise ValueError(
                "The reference shares weights with the policy that learns, so the KL between them "
                "would always be 0: load the reference as a second copy."
            )
        self.policy, self.row, self._taken = policy, row, None

    def to(self, device: torch.device) -> None:
        """Move the reference to a device."""
        self.reference.to(device)
        self._decoder = None

    def forget(self) -> None:
        """Drop the cache of the reference."""
        self._decoder = None

    def begin(self, rows: np.ndarray) -> None:
        """Set β for the episodes that begin in ``rows``."""
        self.kl_coef[rows] = self.schedule.value

    def begin_batch(self) -> None:
        """Clear the records of a batch that was not finished."""
        self._noted = []

    @property
    def sampling(self) -> Sampling:
        """The bound policy's rule from logits to probabilities, for this vocabulary."""
        from textenv.lm.log_probs import Sampling

        sampling = getattr(self.policy, "sampling", Sampling()).limited_to(self.vocabulary)
        return sampling.banning(self.illegal) if self.illegal else sampling

    # --- the policy's record ----------------------------------------------------------------

    def take_record(self) -> ActionRecord | None:
        """The bound policy's new record, one entry per row; None if there is none and β is 0. A
        record that is missing or stale is a RuntimeError."""
        record = getattr(self.policy, "action_record", None)
        if record is None:
            if self.schedule.value > 0:
                raise RuntimeError(
                    "KL shaping (kl_coef > 0) needs the policy's log-probabilities: call "
                    "env.unwrapped.bind(policy) once, with a policy that stores an action_record "
                    "(textenv.ActionRecord) at each act and that has acted. The agents of this "
                    "project bind themselves, and so do the policies of agents.sb3 in an "
                    "environment of agents.sb3.text_vec_env; kl_coef=0 only reports. (A policy "
                    "that was sent to another process, as AsyncVectorEnv and SubprocVecEnv do, is "
                    "a copy that never acts: use the native vector environment or SyncVectorEnv.)"
                )
            return None
        if record is self._taken:
            raise RuntimeError(
                "The bound policy has not acted since the last step, so its action_record is "
                "stale: let it act on each observation, or unbind it with env.unwrapped.bind(None)."
            )
        self._taken = record
        actions, log_probs = (to_tensor(part) for part in record)
        if self.row is not None:
            actions, log_probs = (part[self.row : self.row + 1] for part in (actions, log_probs))
        if actions.shape != (self.num_rows,) or log_probs.shape != (self.num_rows,):
            raise RuntimeError(
                f"The bound policy's action_record has the shapes {tuple(actions.shape)} and "
                f"{tuple(log_probs.shape)}, but this environment has {self.num_rows} rows: let the "
                "policy act on its observations before each step. For several environments of one "
                "row, agents.bind(envs, policy) gives each its own entry."
            )
        return ActionRecord(actions, log_probs.detach())

    def note(self, actions: Tensor, running: Tensor) -> None:
        """Batch scoring: store the record of this step, without waiting for the device."""
        record = self.take_record()
        if record is not None:
            differs = (record.actions.to(actions.device) != actions) & running
            self._noted.append((record.log_probs.to(actions.device), differs))

    def noted_log_probs(self, mask: Tensor, num_steps: int) -> Tensor | None:
        """log π ``[B, T]`` of whole responses, 0 outside the mask; None if no policy is bound.

        An action that is not the policy's is a RuntimeError, and so is a policy that was bound for
        only some of the ``num_steps`` steps of the batch.
        """
        if not self._noted:
            return None
        if len(self._noted) != num_steps:
            noted, self._noted = len(self._noted), []
            raise RuntimeError(
                f"A policy was bound for {noted} of the {num_steps} steps of this batch, so the "
                "KL of the others is unknown: bind it before reset()."
            )
        log_probs, differs = (
            torch.stack(parts, dim=1)[:, : mask.shape[1]]
            for parts in zip(*self._noted, strict=True)
        )
        self._noted = []
        if differs.any():
            row, step = differs.nonzero()[0].tolist()
            raise RuntimeError(_other_action(f"row {row} at token {step} of its response"))
        return log_probs.masked_fill(~mask, 0)  # a waiting row may have nan or -inf there

    # --- the reference ----------------------------------------------------------------------

    @torch.no_grad()
    def step(
        self, input_ids: Tensor, lengths: Tensor, origin: Origin, actions: Tensor,
        running: Tensor, early_stops: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:  # fmt: skip
        """Step scoring: the reference's and the policy's log-probs ``[B]`` of ``actions``, in nats,
        the latter None if no policy is bound; and where an action is not that of its record: then
        `refuse` the step.

        The states are as `textenv.lm.decoder.Decoder.next` takes them; the results of rows that are
        not running are 0. ``early_stops``: ``[B, K]`` (`textenv.lm.early_stops`).
        """
        from textenv.lm.decoder import Decoder

        record = self.take_record()
        if self._decoder is None:
            self._decoder = Decoder(self.reference, self.num_rows, self.max_length)
        logits, _ = self._decoder.next(input_ids, lengths, origin)
        given, waits = to_device(actions, logits.device), ~to_device(running, logits.device)
        every = self.sampling.apply(logits, early_stops).log_softmax(-1)
        reference_log_probs = every.gather(1, given[:, None])[:, 0].masked_fill(waits, 0)
        if record is None:
            return reference_log_probs, None, torch.zeros_like(running)
        chosen, log_probs = to_host(*record) if actions.is_cpu else record
        differs = (to_device(chosen, actions.device) != actions) & running
        log_probs = to_device(log_probs, logits.device).masked_fill(waits, 0)
        return reference_log_probs, log_probs, differs

    def refuse(self, where: str) -> None:
        """Raise the error of an undone step, in which an action was not the policy's."""
        self._taken = None  # no step has been taken, so the record can still be used
        raise RuntimeError(_other_action(where))

    @torch.no_grad()
    def score(
        self, input_ids: Tensor, begins: dict[str, Tensor], actions: Tensor, mask: Tensor
    ) -> Tensor:
        """Batch scoring: reference log-probs of the ``actions`` of whole responses, ``[B, T]`` or
        ``[B, T, K]`` as these are; 0 outside the mask.

        ``begins``: the ``prompt_lengths``, ``own_tokens`` if there are any, and what
        `textenv.lm.early_stops.all_early_stops` reads.
        """
        from textenv.lm.attention import attention_of
        from textenv.lm.log_probs import response_states, token_log_probs
        from textenv.lm.responses import Responses

        first = next(self.reference.parameters())
        device, attention = first.device, (first.device, first.dtype, self.max_length)
        input_ids, actions, mask = (tensor.to(device) for tensor in (input_ids, actions, mask))
        begins = {key: value.to(device) for key, value in begins.items()}
        body, head = split(self.reference)
        scores = torch.zeros(actions.shape, device=device)
        rows_at_once = max(1, TOKENS_AT_ONCE // input_ids.shape[1])
        for begin in range(0, len(mask), rows_at_once):
            rows = slice(begin, begin + rows_at_once)
            part = {key: value[rows] for key, value in begins.items()}
            responses = Responses.of({"input_ids": input_ids[rows], **part}, mask[rows])
            with attention_of(*attention):  # as of the policy, so that equal weights give a KL of 0
                hidden = response_states(body, responses)
            tokens = responses.counted(actions[rows])
            early_stops = responses.early_stops(part)
            log_probs, _ = token_log_probs(
                head, hidden, tokens, self.sampling, early_stops=early_stops
            )
            scores[rows] = responses.in_rows(log_probs)
        return scores


def _other_action(where: str) -> str:
    return (
        f"The action of {where} is not the one that the bound policy chose, so its "
        "log-probability, and with it the KL, is unknown: step the actions that the policy chose, "
        "or unbind it with env.unwrapped.bind(None)."
    )
