"""Shape checks, made before any arithmetic so that nothing broadcasts by accident."""

import torch
from torch import Tensor


def check_same_shape(**tensors: Tensor | None) -> None:
    """Raise ValueError unless all tensors that are not None have one shape."""
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items() if tensor is not None}
    if any(shape != next(iter(shapes.values())) for shape in shapes.values()):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"expected tensors of one shape, got {listed}")


def check_rows(**tensors: Tensor | None) -> None:
    """Raise ValueError unless all tensors that are not None are [B, T], T >= 1, of one shape, and
    TypeError unless `episode_end` and `mask` are boolean."""
    check_same_shape(**tensors)
    for name, tensor in tensors.items():
        if tensor is not None and (tensor.ndim != 2 or tensor.shape[1] == 0):
            raise ValueError(f"{name} must be [B, T] with T >= 1, got {list(tensor.shape)}")
    check_bool(episode_end=tensors.get("episode_end"), mask=tensors.get("mask"))


def check_bool(**tensors: Tensor | None) -> None:
    """Raise TypeError unless all tensors that are not None are boolean."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype != torch.bool:
            raise TypeError(f"{name} must be a bool tensor, got {tensor.dtype}")
