"""The two parts of a causal language model: the body (tokens to hidden states) and the head.

With two parts, hidden states can be selected *before* the head is applied: logits are then computed
only at the columns that are needed, and a value head can share the body.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}
SUPPORTED_ATTENTION = {"sdpa", "eager"}  # these accept the masks of the row cache


def unwrapped(model: Any) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper, with adapters; any other model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@dataclass
class Head:
    """Hidden states ``[..., H]`` to logits ``[..., V]``, as the architecture defines it.

    Attributes:
        embeddings: the output embeddings, a linear map.
        scale: logits are multiplied by it (Cohere, Granite).
        soft_cap: logits are limited to ±soft_cap by a tanh (Gemma 2).
    """

    embeddings: nn.Module
    scale: float = 1.0
    soft_cap: float | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        logits = self.embeddings(hidden)
        if self.scale != 1:
            logits = logits * self.scale
        return torch.tanh(logits / self.soft_cap) * self.soft_cap if self.soft_cap else logits

    def frozen(self) -> Head:
        """A copy with the current weights, without gradient."""
        return replace(self, embeddings=copy.deepcopy(self.embeddings).requires_grad_(False))


def split(model: Any) -> tuple[nn.Module, Head]:
    """Split a causal language model into its body and its head.

    Returns:
        body: called like the transformers base model; its ``last_hidden_state`` is ``[B, L, H]``.
        head: turns these hidden states into logits.
    """
    model = unwrapped(model)
    config = model.config
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", 1) or 1)
    soft_cap = getattr(config, "final_logit_softcapping", None)
    return body_of(model), Head(model.get_output_embeddings(), scale, soft_cap)


def body_of(model: Any) -> nn.Module:
    """The body of a causal language model; a body is returned as it is."""
    return unwrapped(model).base_model


def first_layers(model: Any, count: int) -> nn.Module:
    """A new body, a copy of the embeddings and the first layers of a causal language model.

    Args:
        model: plain, or wrapped by PEFT.
        count: number of layers, at least 1; all of them if the model has fewer.

    Raises:
        ValueError: ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"critic_layers={count} must be 0 (the model's own body) or above.")
    body: Any = body_of(model)
    every = body.config.get_text_config().num_hidden_layers
    count = min(count, every)
    copied = copy.deepcopy(body)
    config = copied.config.get_text_config()
    for module in copied.modules():
        if isinstance(module, nn.ModuleList) and len(module) == every:
            del module[count:]
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]
    return copied


@torch.no_grad()
def check_supported(model: Any, max_length: int) -> None:
    """Raise an error for a model that the row cache or ``split`` cannot handle correctly.

    Raises:
        ValueError: the context is shorter than ``max_length``, a layer is not plain attention, a
            sliding window is shorter than ``max_length``, the attention has no masks, or body and
            head do not give the model's own logits.
    """
    model = unwrapped(model)
    config, name = model.config.get_text_config(), type(model).__name__
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and max_length > context:
        raise ValueError(
            f"Episodes may take {max_length} tokens (longest prompt + max_new_tokens), but the "
            f"context of {name} is {context}: lower max_new_tokens or max_prompt_tokens."
        )
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layers - SUPPORTED_LAYERS:
        raise ValueError(
            f"{name} has layers of the types {sorted(layers - SUPPORTED_LAYERS)}; only models made "
            "of attention layers are supported."
        )
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in layers or not getattr(config, "layer_types", None)
    if window and slides and getattr(config, "use_sliding_window", True) and window < max_length:
        raise ValueError(
            f"{name} attends through a sliding window of {window} tokens, shorter than an episode "
            f"({max_length}): lower max_new_tokens or max_prompt_tokens to at most {window} in all."
        )
    if config._attn_implementation not in SUPPORTED_ATTENTION:
        raise ValueError(
            f"{name} has attn_implementation={config._attn_implementation!r}, but the row cache "
            "needs masks of its own: load the model with 'sdpa' or 'eager'."
        )
    body, head = split(model)
    probe = torch.tensor([[1, 2, 0]], device=model.device)
    own = model(input_ids=probe, use_cache=False).logits.float()
    ours = head(body(input_ids=probe, use_cache=False).last_hidden_state).float()
    if not torch.allclose(own, ours, rtol=1e-2, atol=1e-2):
        raise ValueError(
            f"The logits of {name} are more than a linear map of its last hidden states, in a way "
            "that textenv.lm.parts.split does not know: this architecture is not supported."
        )
