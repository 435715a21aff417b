"""The definition of a text environment's episodes, which does not depend on how they are run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch

from textenv.arguments import Range, check_ranges, checked_device
from textenv.lm.loading import load_model, load_tokenizer
from textenv.lm.stop_rule import StopRule
from textenv.lm.vocabulary import check_same_tokenizer, vocabulary_size
from textenv.prompts.load import encode_prompts, load_prompts
from textenv.rewards import resolve_reward
from textenv.sharing import is_data, plain, unwrap_shared


class TextTask:
    """The arguments that define an episode, checked and resolved.

    Attributes:
        spaces: the observation space and the action space of one row.
        arguments: the arguments as they were given.
        tokenizer, prompts, reward, stop, reference: the live objects.
        max_length: L, tokens of the longest prompt plus the budget.

    Args:
        device: the device of the reference and of a reward model. The other arguments are those of
            `textenv.TextGenEnv`.

    Raises:
        ValueError: an argument is not valid; the message names it, its value and the fix.
    """

    def __init__(
        self,
        *,
        tokenizer: Any,
        prompts: Any,
        reward: Any,
        max_new_tokens: Annotated[int, Range(1)],
        min_new_tokens: Annotated[int, Range(0)],
        stop: Sequence[str | int] | str | int | None,
        max_prompt_tokens: Annotated[int | None, Range(1)],
        chat: bool,
        reference: Any,
        reference_dtype: str,
        kl_coef: Any,
        no_stop_penalty: Annotated[float, Range()],
        reward_timeout: Annotated[float | None, Range(above=0)],
        reward_retries: Annotated[int, Range(0)],
        device: str | torch.device,
    ):
        given = {name: unwrap_shared(value) for name, value in locals().items() if name != "self"}
        self.device = checked_device(given.pop("device"))
        self.arguments: dict[str, Any] = given
        self._check_arguments()
        self.max_new_tokens, self.no_stop_penalty = max_new_tokens, no_stop_penalty
        self.reward_timeout, self.reward_retries = reward_timeout, reward_retries
        self.tokenizer = load_tokenizer(given["tokenizer"])
        self.prompts = encode_prompts(
            load_prompts(given["prompts"]), self.tokenizer, max_prompt_tokens, chat
        )
        self.reward = resolve_reward(given["reward"], device)
        self.stop = StopRule(self.tokenizer, given["stop"], min_new_tokens)

        vocabulary = vocabulary_size(self.tokenizer)
        self.max_length = max(len(prompt.ids) for prompt in self.prompts) + max_new_tokens
        observation: dict[str, gym.Space] = {
            "input_ids": gym.spaces.Box(0, vocabulary - 1, (self.max_length,), np.int64),
            "attention_mask": gym.spaces.Box(0, 1, (self.max_length,), np.int8),
        }
        if self.stop.first_stops is not None:
            ids = (len(self.stop.tokens),)
            observation |= {
                "stop_tokens": gym.spaces.Box(0, vocabulary - 1, ids, np.int64),
                "stop_column": gym.spaces.Box(0, self.max_length, (1,), np.int64),
            }
        self.spaces = gym.spaces.Dict(observation), gym.spaces.Discrete(vocabulary)

        self.reference, self.kl_coef = None, given["kl_coef"]
        if given["reference"] is not None:
            dtype = getattr(torch, reference_dtype)
            self.reference = load_model(given["reference"], dtype=dtype, device=device)
            check_same_tokenizer(self.tokenizer, self.reference, "The reference")

    def _check_arguments(self) -> None:
        given = self.arguments
        check_ranges(TextTask.__init__, given)
        longest, least = given["max_new_tokens"], given["min_new_tokens"]
        if least > longest:
            raise ValueError(
                f"min_new_tokens={least} must be between 0 and max_new_tokens={longest}."
            )
        if not isinstance(given["chat"], bool):
            raise ValueError(f"chat={given['chat']!r} must be True or False.")
        if given["reference_dtype"] not in ("float32", "bfloat16", "float16"):
            raise ValueError(
                f"reference_dtype={given['reference_dtype']!r} is unknown: use 'float32', "
                "'bfloat16' or 'float16'."
            )
        if given["reference"] is None and given["kl_coef"] != 0:
            raise ValueError(
                f"kl_coef={given['kl_coef']!r} without a reference has no effect: pass "
                "reference=, the model to stay close to."
            )

    def sibling_arguments(self) -> dict[str, Any]:
        """The arguments of another environment of this task that shares its live objects.

        Its rewards are not shaped, so it has no schedule to update. The reference is not moved.
        """
        return {
            **self.arguments,
            "tokenizer": self.tokenizer,
            "prompts": self.prompts,
            "reward": self.reward,
            "reference": self.reference,
            "kl_coef": 0.0,
            "device": self.device if self.reference is None else self.reference.device,
        }

    def as_data(self) -> tuple[dict[str, Any], list[str]]:
        """The arguments that JSON can hold, and the names of those that are live objects."""
        data, live = {}, []
        for name, value in self.arguments.items():
            value = plain(value.as_data() if hasattr(value, "as_data") else value)
            if is_data(value):
                data[name] = value
            else:
                live.append(name)
        return data, live
