"""numpy and torch behind one set of calls: what their common subset lacks.

Indexing, arithmetic and comparison are spelled alike in both, so the environment's bookkeeping is
written once; only making arrays and crossing between the two kinds is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Array = np.ndarray | torch.Tensor

_TORCH_DTYPES = {
    np.int64: torch.int64,
    np.int8: torch.int8,
    np.bool_: torch.bool,
    np.float64: torch.float32,  # rewards in torch mode: what learners compute in
}


class Arrays:
    """Makes arrays of one kind.

    Args:
        kind: "numpy" or "torch".
        device: where tensors live; numpy's arrays are on the host.
    """

    def __init__(self, kind: str, device: str | torch.device):
        self.numpy = kind == "numpy"
        self.device = torch.device("cpu" if self.numpy else device)

    def zeros(self, shape: int | tuple[int, ...], dtype: type) -> Array:
        """Of a numpy dtype, or of its counterpart in torch."""
        if self.numpy:
            return np.zeros(shape, dtype)
        shape = (shape,) if isinstance(shape, int) else shape
        return torch.zeros(shape, dtype=_TORCH_DTYPES[dtype], device=self.device)

    def of(self, values: Any) -> Array:
        """A host array or a tensor as one of this kind, on the device."""
        if self.numpy:
            return host(values)
        values = tensor(values)
        dtype = torch.float32 if values.is_floating_point() else values.dtype
        return values.to(self.device, dtype, non_blocking=True)

    def copy(self, array: Array) -> Array:
        """The same numbers in memory of their own."""
        return array.copy() if self.numpy else array.clone()


def host(values: Any) -> np.ndarray:
    """As a numpy array; of a tensor on the CPU, a view."""
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def tensor(values: Any) -> torch.Tensor:
    """As a tensor where it is; of a numpy array, a view."""
    return values if isinstance(values, torch.Tensor) else torch.from_numpy(np.asarray(values))
