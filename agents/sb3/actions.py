"""Actions that remember which policy chose them, and what it saw.

An algorithm of stable-baselines3 hands to its environment nothing but actions, but KL shaping needs
their log-probabilities. So the actions carry a reference to the policy, by which `SB3VecEnv` binds
it, and the tokens that it saw, which a wrapper in between may have changed. This works for
learning, for loaded models and for `evaluate_policy` alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

CHANGED = (
    "a wrapper, such as VecFrameStack or VecNormalize, changes them on the way to the policy: "
    "remove it, or let it change rewards only."
)


class PolicyArray(np.ndarray):
    """A numpy array with the attributes ``policy`` and ``seen``."""

    policy: Any = None
    seen: Any = None

    def __array_finalize__(self, source: Any) -> None:
        self.policy, self.seen = (getattr(source, name, None) for name in ("policy", "seen"))


class PolicyTensor(torch.Tensor):
    """A tensor with the attributes ``policy`` and ``seen``; a `PolicyArray` by `numpy`."""

    policy: Any = None
    seen: Any = None
    # Other results are plain tensors.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(cls, actions: torch.Tensor, policy: Any, seen: Any) -> PolicyTensor:
        """``actions`` ``[B]``, chosen by ``policy`` (see `textenv.kl.shaping.BoundPolicy`) after
        the tokens ``seen`` ``[B, L]``."""
        chosen = actions.as_subclass(cls)
        chosen.policy, chosen.seen = policy, seen
        return chosen

    def cpu(self, *args: Any, **kwargs: Any) -> PolicyTensor:
        return PolicyTensor.of(super().cpu(*args, **kwargs), self.policy, self.seen)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        array = super().numpy(*args, **kwargs).view(PolicyArray)
        array.policy, array.seen = self.policy, self.seen
        return array
