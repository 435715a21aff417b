"""Layers whose activations are computed again in the backward pass instead of kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from textenv.lm.parts import by_layer


@contextmanager
def checkpointed(body: nn.Module, block: Callable[[], AbstractContextManager]) -> Iterator[None]:
    """Forward passes of a body keep the inputs of its layers only; they must not use a cache. A
    layer computes in a ``block`` of its own, also where the backward pass asks it again.

    What transformers has for this works in training mode alone, where dropout is on.
    """
    layers = by_layer(body)[0]
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(checkpoint, _within(block, layer.forward), use_reentrant=False)
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward  # that of its class is seen again
            if forward is not None:
                layer.forward = forward


def _within(block: Callable[[], AbstractContextManager], function: Callable) -> Callable:
    def call(*arguments: Any, **keywords: Any) -> Any:
        with block():
            return function(*arguments, **keywords)

    return call
