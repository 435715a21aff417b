"""Actions that remember which policy chose them.

An algorithm of stable-baselines3 hands to its environment nothing but actions, but KL shaping needs
their log-probabilities. So the actions carry a reference to the policy, by which `SB3VecEnv` binds
it. This works for learning, for loaded models and for `evaluate_policy` alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class PolicyArray(np.ndarray):
    """A numpy array with the attribute ``policy``."""

    policy: Any = None

    def __array_finalize__(self, source: Any) -> None:
        self.policy = getattr(source, "policy", None)


class PolicyTensor(torch.Tensor):
    """A tensor with the attribute ``policy``, which becomes a `PolicyArray` by `numpy`."""

    policy: Any = None
    # Other results are plain tensors.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(cls, actions: torch.Tensor, policy: Any) -> PolicyTensor:
        """``actions`` ``[B]``, chosen by ``policy`` (see `textenv.kl.shaping.BoundPolicy`)."""
        chosen = actions.as_subclass(cls)
        chosen.policy = policy
        return chosen

    def cpu(self, *args: Any, **kwargs: Any) -> PolicyTensor:
        return PolicyTensor.of(super().cpu(*args, **kwargs), self.policy)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        array = super().numpy(*args, **kwargs).view(PolicyArray)
        array.policy = self.policy
        return array
