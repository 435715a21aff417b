"""The definition of a text environment's episodes, which does not depend on how they are run."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch

from textenv.arguments import Arguments, Range, check_ranges, checked_device
from textenv.dialogues.between import Replies
from textenv.dialogues.respond import resolve_respond
from textenv.lm.legal import token_space
from textenv.lm.loading import load_model, load_tokenizer
from textenv.lm.stop_rule import StopRule
from textenv.lm.vocabulary import check_same_tokenizer, vocabulary_size
from textenv.prompts.chat import without_template
from textenv.prompts.load import encode_prompts, load_prompts, with_tools
from textenv.rewards import resolve_reward
from textenv.sharing import is_data, plain, unwrap_shared

OF_DIALOGUES = "max_turns", "max_turn_tokens", "max_reply_tokens"


class TextTask(Arguments):
    """The arguments that define an episode, checked and resolved.

    Tokenizer, prompts, reward, reference and device are the live objects that the arguments name.

    Attributes:
        arguments: the arguments as they were given, without the device.
        stop_rule: what stops a response.
        spaces: the observation space and the action space of one row.
        max_length: L, tokens of the longest prompt plus the budget.

    Raises:
        ValueError: an argument is not valid; the message names it, its value and the fix.
    """

    tokenizer: Any = "bundled"
    """"bundled", "smollm2", a folder, a hub id, or a transformers tokenizer."""
    prompts: Any = "bundled"
    """"bundled", a file (.txt, .jsonl, .json, .csv or .parquet, also as .gz), a list, a table of
    pandas, or a dataset, of texts or of conversations (`textenv.prompts.load.load_prompts`). The
    other columns are passed to the reward in ``episode.data``. The tokenizer's chat template, which
    gets the columns ``tools`` and ``chat_template_kwargs``, renders a conversation, whose messages
    are in ``episode.data["prompt"]``; a last message of the assistant is continued."""
    reward: Any = "sentiment"
    """a name, ``"module:function"``, a classifier, any function, or a weighted sum
    (`textenv.rewards.resolve_reward`)."""
    max_new_tokens: Annotated[int, Range(1)] = 24
    "the token budget of a response."
    min_new_tokens: Annotated[int, Range(0)] = 0
    "stop tokens and stop strings before this many tokens don't end the episode."
    stop: Sequence[str | int] | str | int | None = None
    """further stop tokens (ids) and stop strings; the tokenizer's end-of-sequence token always
    stops."""
    max_prompt_tokens: Annotated[int | None, Range(1)] = None
    "the longest prompt allowed; a longer one is an error."
    chat: bool = False
    """whether a prompt that is a plain text becomes one message of the user, rendered by the
    tokenizer's chat template."""
    reference: Any = None
    "the model that the policy should stay close to."
    reference_dtype: str = "float32"
    '"float32", "bfloat16" or "float16", for a reference that is loaded here.'
    kl_coef: Any = 0.0
    """β, a number, a schedule such as `textenv.AdaptiveKL`, or a mapping of its arguments
    (``{"target": 6.0}``). 0 reports the KL and does not change the reward."""
    no_stop_penalty: Annotated[float, Range()] = 0.0
    "subtracted from the reward of an episode that never stopped."
    respond: Any = None
    """what the environment replies to a turn: a function of the dialogue so far, of a batch of
    them, a class with a state for each row, or ``"module:function"``
    (`textenv.dialogues.respond`)."""
    max_turns: Annotated[int, Range(1)] = 4
    "with ``respond``, the turns of an episode; what it answers to the last one is not read."
    max_turn_tokens: Annotated[int | None, Range(1)] = None
    """with ``respond``, the token budget of a turn; None: what is left of ``max_new_tokens``, which
    counts the policy's tokens in all turns."""
    max_reply_tokens: Annotated[int, Range(1)] = 32
    "with ``respond``, the tokens of a reply; a longer one is cut."
    legal_tokens: Sequence[str | int] | None = None
    """the tokens that may be chosen, as ids or as texts that are one token; None: all. Policies of
    this project never choose others."""
    reward_timeout: Annotated[float | None, Range(above=0)] = None
    """seconds that the reward, or ``respond``, may take for the episodes that it is asked about at
    once; None waits for ever. One that hangs is an error that names the episode."""
    reward_retries: Annotated[int, Range(0)] = 0
    "how often a reward that failed is asked again before that is an error."
    device: str | torch.device = "cpu"
    "the device of the reference and of a reward model."

    def __post_init__(self) -> None:
        given = {each.name: unwrap_shared(getattr(self, each.name)) for each in fields(self)}
        self.device, self.arguments = checked_device(given.pop("device")), given
        self._check_arguments()
        self.tokenizer, self.kl_coef = load_tokenizer(given["tokenizer"]), given["kl_coef"]
        self._check_template()
        self.respond = None if given["respond"] is None else resolve_respond(given["respond"])
        prompts = load_prompts(given["prompts"])
        if self.respond is not None and self.respond.schemas:
            prompts = [with_tools(prompt, self.respond.schemas) for prompt in prompts]
        self.prompts = encode_prompts(prompts, self.tokenizer, self.max_prompt_tokens, self.chat)
        self.reward = resolve_reward(given["reward"], self.device)
        for number, prompt in enumerate(self.prompts):
            try:
                self.reward.check_row(prompt.data)
            except ValueError as error:
                raise ValueError(f"prompts[{number}] does not suit the {error}.") from error
        self.stop_rule = StopRule(self.tokenizer, given["stop"], self.min_new_tokens)

        vocabulary = vocabulary_size(self.tokenizer)
        self.max_length = max(len(prompt.ids) for prompt in self.prompts) + self.max_new_tokens
        if self.respond is not None:
            self.replies = self._encoders()
            frame = max(encoder.frame for encoder in self.replies.values())
            self.max_length += (self.max_turns - 1) * (self.max_reply_tokens + frame)
        observation: dict[str, gym.Space] = {
            "input_ids": gym.spaces.Box(0, vocabulary - 1, (self.max_length,), np.int64),
            "attention_mask": gym.spaces.Box(0, 1, (self.max_length,), np.int8),
        }
        if self.stop_rule.first_stops is not None:
            ids = (len(self.stop_rule.tokens),)
            observation |= {
                "stop_tokens": gym.spaces.Box(0, vocabulary - 1, ids, np.int64),
                "stop_column": gym.spaces.Box(0, self.max_length, (1,), np.int64),
            }
        if self.respond is not None:
            observation["own_tokens"] = gym.spaces.Box(0, 1, (self.max_length,), np.int8)
        actions = token_space(self.tokenizer, self.legal_tokens)
        self.spaces = gym.spaces.Dict(observation), actions

        self.reference = given["reference"]
        if self.reference is not None:
            dtype = getattr(torch, self.reference_dtype)
            self.reference = load_model(self.reference, dtype=dtype, device=self.device)
            check_same_tokenizer(self.tokenizer, self.reference, "The reference")

    def _check_arguments(self) -> None:
        check_ranges(TextTask, self.arguments)
        without_dialogue = self.arguments["respond"] is None
        for name in OF_DIALOGUES:
            if without_dialogue and self.arguments[name] != getattr(TextTask, name):
                raise ValueError(
                    f"{name}={self.arguments[name]!r} has no effect without respond=, which makes "
                    "an episode a dialogue."
                )
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens={self.min_new_tokens} must be between 0 and "
                f"max_new_tokens={self.max_new_tokens}."
            )
        if not isinstance(self.chat, bool):
            raise ValueError(f"chat={self.chat!r} must be True or False.")
        if self.reference_dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(
                f"reference_dtype={self.reference_dtype!r} is unknown: use 'float32', 'bfloat16' "
                "or 'float16'."
            )
        if self.arguments["reference"] is None and self.arguments["kl_coef"] != 0:
            raise ValueError(
                f"kl_coef={self.arguments['kl_coef']!r} without a reference has no effect: pass "
                "reference=, the model to stay close to."
            )

    def _encoders(self) -> dict[bool, Replies]:
        """What encodes replies in conversations (True) and in plain texts (False), as far as the
        prompts are such. A chat template writes the same between turns of all of them."""
        encoders: dict[bool, Replies] = {}
        for prompt in self.prompts:
            is_chat = prompt.is_conversation
            if is_chat not in encoders:
                messages = (prompt.data["prompt"], prompt.data) if is_chat else None
                encoders[is_chat] = Replies(
                    self.tokenizer, self.stop_rule.is_stop_token, messages, self.respond.role
                )
        return encoders

    def _check_template(self) -> None:
        """Name the task, where it is a registered one that asks in conversations: nobody gave
        ``chat=True`` then."""
        prompts = self.arguments["prompts"]
        if not self.chat or self.tokenizer.chat_template or not isinstance(prompts, list):
            return
        for spec in gym.registry.values():
            if spec.kwargs.get("chat") and spec.kwargs.get("prompts") == prompts:
                raise ValueError(
                    f"{spec.id} asks in conversations. {without_template(self.tokenizer)}: take "
                    "that of a chat model, such as tokenizer='smollm2' (in commands --model "
                    "smollm2), or pass chat=False."
                )

    def sibling_arguments(self) -> dict[str, Any]:
        """The arguments of another environment of this task that shares its live objects.

        Its rewards are not shaped, so it has no schedule to update. The reference is not moved.
        """
        shared = ("tokenizer", "prompts", "reward", "reference")
        return {
            **self.arguments,
            **{name: getattr(self, name) for name in shared},
            "kl_coef": 0.0,
            "device": self.device if self.reference is None else self.reference.device,
        }

    def as_data(self) -> tuple[dict[str, Any], list[str]]:
        """The arguments that JSON can hold, and the names of those that are live objects."""
        values = dict(self.arguments)
        if hasattr(values["kl_coef"], "as_data"):
            values["kl_coef"] = values["kl_coef"].as_data()
        values = {name: plain(value) for name, value in values.items()}
        data = {name: value for name, value in values.items() if is_data(value)}
        return data, [name for name in values if name not in data]
