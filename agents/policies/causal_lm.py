"""A causal language model as a policy: its next-token distribution, and a value head."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from agents import distributed, files
from agents.policies.base import Evaluation, Policy, Steps
from agents.policies.decoding import Caches, Decoders, next_logits, next_tokens
from agents.policies.distributions import TokenDistribution
from textenv.arguments import Range
from textenv.kl.shaping import ActionRecord
from textenv.lm.adapters import add_adapters, has_adapters, merged, without_casts
from textenv.lm.attention import attention_of
from textenv.lm.checkpointing import checkpointed
from textenv.lm.early_stops import KEYS
from textenv.lm.loading import cast, load_model, save_ends, without_bars
from textenv.lm.log_probs import NO_ROWS, Sampling, response_states
from textenv.lm.lookahead import states_after
from textenv.lm.parts import by_layer, first_layers, sharing, split, unwrapped
from textenv.lm.responses import Responses
from textenv.lm.support import check_supported
from textenv.lm.vocabulary import own_tokenizer
from textenv.sharing import plain

# No float16: gradients would underflow in it without loss scaling.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class CausalLMPolicy(nn.Module, Policy):
    """π(a|s) is the language model; V(s) is a linear head on its body's last hidden state, or on
    that of a separate body.

    The state of this recurrent policy is the cache of keys and values, so acting passes only
    one token per row to the model. `act` and `evaluate` give the same log-probabilities:
    temperature, bans and precision are set here and apply to both. So do the stop tokens that an
    observation forbids (``min_new_tokens``).

    Args:
        observation_space, action_space: those of one row of the environment.
        model: a source as in `textenv.lm.loading`, or a live model, which may be wrapped by PEFT.
        temperature: logits are divided by it, in acting and in learning.
        banned_tokens: ids that are never chosen.
        dtype: "float32" or "bfloat16". In reduced precision the weights that learn stay
            float32: a copy acts, and the update runs under autocast. Then `act` and `evaluate`
            differ by rounding, and agents take the old log-probabilities from `evaluate`.
        attn_implementation: as in transformers; second derivatives (TRPO) need "eager".
        critic_layers: 0 puts the value head on the model's own body, whose updates then also
            move the policy. Otherwise the critic has a body of its own, which begins as a copy of
            the model's first layers, at most this many (Andrychowicz et al. 2021: separate nets).
        lora: learn adapters of low rank instead of the model's weights: the rank, or arguments of
            `peft.LoraConfig` (see `textenv.lm.adapters`). Only they are saved; `merge` writes a
            model without adapters.
        reference: a loaded model, such as the environment's reference. If only adapters learn and
            it is their base, its weights are used, and there is no second copy of them. In bfloat16
            they stay in that precision.
        gradient_checkpointing: keep only the input of each layer for the backward pass, which
            computes the rest again: less memory for long texts, a third more time (Chen et al.
            2016). Prompts that rows share are then read for each of them.
        seed: the seed of new adapters.
        device: the device of the model.
    """

    sequential = True

    def __init__(
        self,
        observation_space: Any,
        action_space: gym.Space,
        *,
        model: Any = "bundled",
        temperature: float = 1.0,
        banned_tokens: Sequence[int] = (),
        dtype: str = "float32",
        attn_implementation: str | None = None,
        critic_layers: int = 0,
        lora: int | Mapping[str, Any] | None = None,
        reference: Any = None,
        gradient_checkpointing: bool = False,
        seed: int | None = None,
        device: str | torch.device = "cpu",
    ):
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r} is unknown: use one of {', '.join(DTYPES)}.")
        _check_space(observation_space)
        self.dtype, self.device = DTYPES[dtype], torch.device(device)
        self.model: Any = load_model(
            model, device=device, attn_implementation=attn_implementation,
            frozen=reference if has_adapters(model, lora) and self.can_act(reference) else None,
        )  # fmt: skip
        if lora is not None:
            self.model = add_adapters(self.model, lora, seed)
        self.model.eval()  # dropout stays off, in rollout and in update
        _check_live(self.model, attn_implementation)
        self.gradient_checkpointing = gradient_checkpointing
        self.body, self.head = split(self.model)
        vocabulary = int(gym.spaces.flatdim(action_space))
        outputs = unwrapped(self.model).get_output_embeddings().weight
        if len(outputs) < vocabulary:
            raise ValueError(
                f"The environment's tokenizer has {vocabulary} tokens, but the model only "
                f"{len(outputs)}: give the environment the tokenizer of this model."
            )
        banned = _checked_tokens(banned_tokens, vocabulary)
        self.max_length = observation_space["input_ids"].shape[0]
        check_supported(self.model, self.max_length)
        self.sampling = Sampling(temperature, banned, vocabulary, forbids_early_stops=True)
        self.sampling = self.sampling.banning(getattr(action_space, "illegal", ()))
        size = outputs.shape[1]  # of the hidden states: some bodies end in a projection
        # Random weights are not needed here, and would change the global random state.
        self.value_head = nn.utils.skip_init(nn.Linear, size, 1, device=device, dtype=torch.float32)
        nn.init.zeros_(self.value_head.weight)  # a critic that starts at zero adds no noise
        nn.init.zeros_(self.value_head.bias)
        self.critic_body: nn.Module | None = None
        if critic_layers:
            self.critic_body = first_layers(self.model, critic_layers).float().requires_grad_(True)
        # In lists, since copies are no submodules; and of sharded weights the whole, to be saved.
        self._acting: list[nn.Module] = []
        self._acting_critic: list[nn.Module] = []
        self._whole: dict[str, Tensor] | None = None
        self.decoders = Decoders()
        self.generator = torch.Generator(device=self.device)
        self.action_record: ActionRecord | None = None

    def actor_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def critic_parameters(self) -> list[nn.Parameter]:
        body = [] if self.critic_body is None else list(self.critic_body.parameters())
        return [*self.value_head.parameters(), *body]

    @property
    def reduced_precision(self) -> bool:
        """Whether `act` and `evaluate` differ by the rounding of a reduced precision."""
        return self.dtype != torch.float32

    def can_act(self, model: Any) -> bool:
        """Whether the weights of a loaded model have the policy's precision, or more."""
        here = torch.empty(0, device=self.device).device  # "cuda" is "cuda:0", say
        dtype, device = getattr(model, "dtype", None), getattr(model, "device", None)
        return dtype in (torch.float32, self.dtype) and device == here

    def autocast(self, captured: bool = False) -> AbstractContextManager:
        """The context in which the weights that learn run in the policy's precision. A step that is
        ``captured`` in it must not read converted weights that the end of the context frees, so
        that none are kept."""
        if not self.reduced_precision:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype, cache_enabled=not captured)

    @contextmanager
    def _quick_passes(self) -> Iterator[None]:
        """A block of passes for an update: the same numbers but for rounding."""
        if not self.reduced_precision:
            yield
            return
        with attention_of(self.device, self.dtype, self.max_length), without_casts(self.model):
            yield

    def initial_state(self, num_rows: int, max_length: int) -> Caches:
        """Empty caches; in reduced precision the policy's uses a new copy of the weights."""
        shape = num_rows, max_length
        own = self.decoders.take(self.acting_model(), *shape)
        body = self.acting_critic()
        if body is None:
            return self.decoders.lend(Caches(own))
        critic = self.decoders.take(body, *shape, head=self.value_head)
        return self.decoders.lend(Caches(own, critic))

    @torch.no_grad()
    def acting_model(self) -> nn.Module:
        """The model that acts: the one that learns, or its current copy in lower precision; of
        sharded weights the copy of the last `gather_weights`."""
        if self.sharded:
            return self._acting[0]
        if not self.reduced_precision:
            return self.model
        model = unwrapped(self.model)
        if not self._acting:
            frozen = [p for p in model.parameters() if not p.requires_grad]
            shared = [p for p in frozen if p.dtype == self.dtype]
            self._acting.append(cast(sharing(model, shared), self.dtype))
        for own, learning in zip(self._acting[0].parameters(), model.parameters(), strict=True):
            if own.data_ptr() != learning.data_ptr():
                own.copy_(learning)
        return self._acting[0]

    def acting_critic(self) -> nn.Module | None:
        """The critic's own body, as `acting_model`."""
        return self._acting_critic[0] if self.sharded and self._acting_critic else self.critic_body

    # --- sharded weights --------------------------------------------------------------------

    @property
    def sharded(self) -> bool:
        return self._whole is not None

    @property
    def shardable(self) -> bool:
        return not has_adapters(self.model, None)

    def shard(self) -> None:
        """Keep only a part of each layer's weights, of actor and critic, in each of several
        processes (`agents.distributed`), in place. Whole copies act."""
        if not self.shardable:
            raise ValueError(
                "shard='full' shares out all weights that learn, but here adapters do, which are "
                "small: use shard='none'."
            )
        self._acting = [cast(sharing(self.model, ()), self.dtype)]
        bodies = [self.body]
        if self.critic_body is not None:
            self._acting_critic = [sharing(self.critic_body, ())]
            bodies.append(self.critic_body)
        for body in bodies:
            distributed.shard(body, by_layer(body)[0])
        self.gather_weights()

    @torch.no_grad()
    def gather_weights(self) -> None:
        copies = {"model.": self._acting, "critic_body.": self._acting_critic}
        acting = {
            part + name: weight
            for part, copied in copies.items()
            for model in copied
            for name, weight in model.named_parameters(remove_duplicate=False)
        }

        weights = self.state_dict(keep_vars=True)
        first: dict[int, str] = {}  # names of weights that are tied, or of the body and the model
        names = {name: first.setdefault(id(weight), name) for name, weight in weights.items()}

        def each() -> Iterator[tuple[str, Tensor, None]]:
            for name, weight in weights.items():
                if names[name] == name:
                    found = distributed.whole(weight)  # one at a time
                    if name in acting:
                        acting[name].copy_(found)
                    yield name, found, None

        found = distributed.on_main(each())
        self._whole = {name: found[names[name]] for name in names if names[name] in found}

    def _whole_of(self, part: str) -> dict[str, Tensor] | None:
        """The whole weights of a submodule, where they are sharded; else None."""
        if self._whole is None:
            return None
        return {
            name.removeprefix(part): weight
            for name, weight in self._whole.items()
            if name.startswith(part)
        }

    @torch.no_grad()
    def act(
        self,
        observation: dict[str, Any],
        state: Caches | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[Tensor, Tensor, Tensor, Caches]:
        """Choose the next token of each row (`Policy.act`), and store the record of it for the
        environment's KL shaping.

        Args:
            observation: ``input_ids`` ``[B, L]`` and ``attention_mask`` ``[B, L]``, numpy or torch.
            state: what the last call returned. None starts with an empty cache, as is necessary
                after an update: the keys and values of old weights are not valid.
            episode_start: not used. New rows are found by a comparison with the tokens in the cache
                or, on an accelerator, by the environment's own count of episodes.
            action_masks: bool ``[B, V]``, tokens that may be chosen (sb3-contrib's MaskablePPO).
        """
        if state is None:
            state = self.initial_state(*observation["input_ids"].shape)
        actions, log_probs, hidden = next_tokens(
            state.policy, observation, self.sampling, self.generator, deterministic, action_masks
        )
        values = self._values(observation, state, hidden)
        # A copy of the actions, so that a change of the returned ones is detected.
        self.action_record = ActionRecord(actions.clone(), log_probs)
        return actions, log_probs, values, state

    @torch.no_grad()
    def predict_values(self, observation: dict[str, Any]) -> Tensor:
        """V(s) ``[B]`` of whole observations, without changing any state."""
        state = self.initial_state(*observation["input_ids"].shape)
        hidden = None
        if state.critic is None:
            hidden = next_logits(state.policy, observation)[1]
        return self._values(observation, state, hidden)

    def _values(self, observation: dict[str, Any], state: Caches, hidden: Any) -> Tensor:
        """V(s) ``[B]``: from the model's hidden states, or by the critic's own body."""
        if state.critic is None:
            return self.value_head(hidden)[:, 0]
        with self.autocast(captured=state.critic.captured is not None):
            return next_logits(state.critic, observation)[0][:, 0]

    def evaluate(self, batch: Steps, entropy: bool = False) -> Evaluation:
        """All counted steps of whole responses in one teacher-forced forward pass; 0 outside the
        mask.

        Args:
            batch: its observations are ``input_ids`` ``[B, L]`` (the last observation of each row,
                of which every earlier one is a prefix) and ``prompt_lengths`` ``[B]``.
            entropy: whether to compute the entropy as well, which needs another ``[N, V]``.
        """
        # The last action is scored but is not an input, so the columns after it may be missing.
        responses = Responses.of(batch.observations, batch.mask)
        hidden = self.hidden_states(self.body, responses)
        early = responses.early_stops(batch.observations)
        distribution = TokenDistribution(
            self.head, hidden, responses, self.sampling, self.autocast, early
        )
        log_probs, entropies = distribution.log_probs(batch.actions, entropy)
        if self.critic_body is not None:
            hidden = self.hidden_states(self.critic_body, responses)
        values = responses.in_rows(self.value_head(hidden.float())[:, 0])
        return Evaluation(log_probs, values, entropies, distribution)

    def hidden_states(
        self, body: nn.Module, responses: Responses, checkpointing: bool | None = None
    ) -> Tensor:
        """Hidden states of a body before each counted token (`response_states`). ``checkpointing``:
        of gradients; None: as of the policy."""
        if checkpointing is None:
            checkpointing = self.gradient_checkpointing
        block = self._quick_passes
        with self.autocast(), checkpointed(body, block) if checkpointing else block():
            if not self.sharded or body not in (self.body, self.critic_body):
                return response_states(body, responses, share_prompts=not checkpointing)
            # Gradients that reach keys and values alone would not be noticed by a sharded layer.
            in_step = partial(distributed.in_step, idle=NO_ROWS)
            return response_states(body, responses, share_prompts=False, in_step=in_step)

    def evaluate_values(self, batch: Steps) -> Tensor:
        """V ``[B, T]`` of the counted steps. Gradients flow to the critic, not to the policy."""
        body = self.body if self.critic_body is None else self.critic_body
        gradient = torch.is_grad_enabled() and self.critic_body is not None
        responses = Responses.of(batch.observations, batch.mask)
        with torch.set_grad_enabled(gradient):
            hidden = self.hidden_states(body, responses)
        return responses.in_rows(self.value_head(hidden.float())[:, 0])

    def values_after(self, batch: Steps) -> Tensor:
        """V ``[B, T, K]`` of the state after each action ``[B, T, K]`` of the counted steps,
        without gradient: of the text with this token at its end."""
        responses = Responses.of(batch.observations, batch.mask)
        body = self.body if self.critic_body is None else self.critic_body
        with torch.no_grad(), self.autocast():
            hidden = states_after(body, responses, responses.counted(batch.actions))
            return responses.in_rows(self.value_head(hidden.float())[..., 0])

    def rollout_observations(
        self, first: dict[str, Any], last: dict[str, Any]
    ) -> dict[str, Tensor]:
        lengths = torch.as_tensor(first["attention_mask"]).sum(dim=1, dtype=torch.int64)
        begins = {key: torch.as_tensor(first[key]) for key in KEYS if key in first}
        if "own_tokens" in last:  # those after the first observation
            own = torch.as_tensor(last["own_tokens"])
            after = torch.arange(own.shape[1], device=own.device) >= lengths[:, None]
            begins["own_tokens"] = own * after
        return {"input_ids": torch.as_tensor(last["input_ids"]), "prompt_lengths": lengths} | begins

    def is_batched(self, observation: dict[str, Any]) -> bool:
        return np.ndim(observation["input_ids"]) == 2

    # --- files --------------------------------------------------------------------------------

    def save(self, folder: Path, tokenizer: Any = None) -> None:
        """Write the model as `from_pretrained` reads it, its tokenizer, and the critic."""
        # Embeddings that do not learn need not be saved, nor looked for in the base model's files.
        adapted = hasattr(self.model, "peft_config")
        with without_bars():
            self.model.save_pretrained(
                folder, state_dict=self._whole_of("model."),
                **{"save_embedding_layers": False} if adapted else {},
            )  # fmt: skip
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
            save_ends(folder, self.model, tokenizer)
        critic = self._critic().state_dict()
        if self._whole is not None:
            critic = {name: self._whole[name] for name in critic}
        save_file(critic, folder / "critic.safetensors")

    def load(self, folder: Path) -> None:
        """Load the critic (the model is loaded by the constructor)."""
        saved = load_file(folder / "critic.safetensors")
        if not self.sharded:
            self._critic().load_state_dict(saved)
            return
        with torch.no_grad():
            for name, weight in self._critic().state_dict().items():
                distributed.own_part(weight).copy_(distributed.part_of(saved[name], like=weight))

    def _critic(self) -> nn.ModuleDict:
        """What only the critic has, as one module."""
        parts = {"value_head": self.value_head, "critic_body": self.critic_body}
        return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

    def merge(self, folder: str | Path) -> None:
        """Write the model with its adapters merged into its weights, and without the critic, to a
        new or empty folder. Of several processes the first one writes."""
        if not distributed.is_main():
            return
        tokenizer = own_tokenizer(self.model)
        with files.new_folder(folder) as new:
            with without_bars():
                whole = self._whole_of("model.")
                model = self.model if self.sharded else merged(self.model)
                model.save_pretrained(new, state_dict=whole)
            if tokenizer is not None:
                tokenizer.save_pretrained(new)

    @staticmethod
    def kwargs_for(folder: Path) -> dict[str, Any]:
        """The constructor's arguments that load a saved policy's weights, adapters included."""
        return {"model": str(folder), "lora": None}

    @staticmethod
    def env_kwargs(policy_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The tokenizer of the model, for an environment that is made for it."""
        model = policy_kwargs.get("model", "bundled")
        tokenizer = model if isinstance(model, str | Path) else own_tokenizer(model)
        return {} if tokenizer is None else {"tokenizer": tokenizer}


def _check_space(observation_space: Any) -> None:
    """Raise an error for observations that are not those of a text environment."""
    if not (
        isinstance(observation_space, gym.spaces.Dict)
        and {"input_ids", "attention_mask"} <= observation_space.spaces.keys()
    ):
        raise ValueError(
            "CausalLMPolicy reads the observations of TextGen-v0 (a Dict with input_ids and "
            f"attention_mask), not {observation_space}: use 'MlpPolicy' here."
        )


def _check_live(model: nn.Module, attn_implementation: str | None) -> None:
    """Raise an error for a live model that cannot learn, or does not fit the arguments."""
    learning = {p.dtype for p in model.parameters() if p.requires_grad}
    if learning - {torch.float32}:
        raise ValueError(
            f"The weights that learn are {', '.join(map(str, learning))}; small steps would vanish "
            "in their rounding: load the model with dtype=torch.float32 (the policy's "
            "dtype='bfloat16' then lets it act in bfloat16)."
        )
    loaded = unwrapped(model).config._attn_implementation
    if attn_implementation not in (None, loaded):
        raise ValueError(
            f"The live model was loaded with attn_implementation={loaded!r}, not "
            f"{attn_implementation!r}: load it with the one you want."
        )


def _checked_tokens(banned_tokens: Any, vocabulary: int) -> tuple[int, ...]:
    """The ids of a collection of tokens."""
    tokens = plain(banned_tokens)
    known = Range(0, vocabulary - 1, whole=True)
    if not isinstance(tokens, list) or any(token not in known for token in tokens):
        raise ValueError(f"banned_tokens={tokens!r} must be ids of the vocabulary, each {known}.")
    return tuple(tokens)
