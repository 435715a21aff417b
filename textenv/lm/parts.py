"""The two parts of a causal language model: the body (tokens to hidden states) and the head.

With two parts, hidden states can be selected *before* the head is applied: logits are then computed
only at the columns that are needed, and a value head can share the body.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def unwrapped(model: Any) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper, with adapters; any other model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@dataclass
class Head:
    """Hidden states ``[..., H]`` to logits ``[..., V]``, as the architecture defines it."""

    embeddings: nn.Module  # the output embeddings, a linear map
    scale: float = 1.0  # logits are multiplied by it (Cohere, Granite)
    soft_cap: float | None = None  # logits are limited to ±soft_cap by a tanh (Gemma 2)

    def __call__(self, hidden: Tensor) -> Tensor:
        logits = self.embeddings(hidden)
        if self.scale != 1:
            logits = logits * self.scale
        return torch.tanh(logits / self.soft_cap) * self.soft_cap if self.soft_cap else logits

    def frozen(self) -> Head:
        """A copy with the current weights, without gradient; the same one as long as somebody has
        it and they do not change, since it is as large as the vocabulary."""
        weights = [(weight.data_ptr(), weight._version) for weight in self.embeddings.parameters()]
        known_weights, known = _frozen.get(self.embeddings, (None, lambda: None))
        found = known()
        if found is None or known_weights != weights:
            found = replace(self, embeddings=copy.deepcopy(self.embeddings).requires_grad_(False))
            _frozen[self.embeddings] = weights, weakref.ref(found)
        return found


# For the embeddings of each model their weights at the time of the last copy, and the copy.
_frozen: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()


def split(model: Any) -> tuple[nn.Module, Head]:
    """Split a causal language model into its body, called like the transformers base model, and its
    head, which turns the body's ``last_hidden_state`` ``[B, L, H]`` into logits."""
    model = unwrapped(model)
    config = model.config
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", 1) or 1)
    soft_cap = getattr(config, "final_logit_softcapping", None)
    return body_of(model), Head(model.get_output_embeddings(), scale, soft_cap)


def body_of(model: Any) -> nn.Module:
    """The body of a causal language model; a body is returned as it is."""
    return unwrapped(model).base_model


def sharing(model: Any, weights: Iterable[Tensor]) -> Any:
    """A copy of a model that has the memory of the given weights of its parameters in common with
    it.

    In the copy they are frozen. What is put around the layers of the one, such as adapters, is not
    in the other.
    """
    shared: Any = {id(weight): nn.Parameter(weight.data, False) for weight in weights}
    return copy.deepcopy(model, shared)


def by_layer(body: Any) -> list[nn.ModuleList]:
    """The lists in a body with one module for each layer, first that of the layers themselves."""
    count = body.config.get_text_config().num_hidden_layers
    lists = [module for module in body.modules() if isinstance(module, nn.ModuleList)]
    return [modules for modules in lists if len(modules) == count]


def first_layers(model: Any, count: int) -> nn.Module:
    """A new body, a copy of the embeddings and the first ``count`` layers of a causal language
    model, or of all if it has fewer. Adapters are left out of it."""
    if count < 1:
        raise ValueError(f"critic_layers={count} must be 0 (the model's own body) or above.")
    body: Any = body_of(model)
    count = min(count, body.config.get_text_config().num_hidden_layers)
    copied = copy.deepcopy(body)
    config = copied.config.get_text_config()
    for modules in by_layer(copied):
        del modules[count:]
    for module in copied.modules():
        for name, child in module.named_children():
            if hasattr(child, "base_layer"):  # an adapter around a layer: the layer alone
                setattr(module, name, child.base_layer)
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]
    return copied
