"""Rows of prompts and responses that a model scores, and which of their tokens count."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from textenv.arrays import to_device, to_host
from textenv.lm.early_stops import all_early_stops


class Responses:
    """Rows ``[R, L]`` of tokens, of which some response tokens count: N in all.

    The tokens are on the host, where it is decided which ones a model reads together. From an
    accelerator they come in one copy, and nothing here waits for it again.

    Prompt and response are contiguous from column 0. Response token t of a row is at column
    ``prompt_length + t``, and is predicted from the column before it. It counts where the mask,
    bool ``[R, T]``, says so.
    """

    def __init__(self, input_ids: Tensor, prompt_lengths: Tensor, mask: Tensor):
        self.device, self.shape = mask.device, mask.shape
        self.input_ids, self.prompt_lengths, self.mask = to_host(input_ids, prompt_lengths, mask)
        steps = torch.arange(1, mask.shape[1] + 1)
        self.lengths = (self.mask * steps).amax(dim=1)  # of the responses, as far as they count
        # Of the counted tokens among all R · T.
        self.places = to_device(self.mask.flatten().nonzero()[:, 0], self.device)

    @classmethod
    def of(cls, observations: Mapping[str, Any], mask: Tensor) -> Self:
        """Those of the observations that `agents.policies.base.Policy.evaluate` takes."""
        return cls(observations["input_ids"], observations["prompt_lengths"], mask)

    def early_stops(self, observations: Mapping[str, Any]) -> Tensor | None:
        """Stop tokens that come too early ``[N, K]``; None if all are legal (`all_early_stops`)."""
        early_stops = all_early_stops(observations, self.shape[1])
        return None if early_stops is None else self.counted(early_stops)

    def counted(self, values: Tensor) -> Tensor:
        """``[R, T, ...]`` to ``[N, ...]``: what belongs to the counted tokens."""
        if values.shape[:2] != self.shape:
            raise ValueError(
                f"These have the shape {tuple(values.shape)}, but the mask {tuple(self.shape)}."
            )
        return values.flatten(0, 1)[self.places]

    def in_rows(self, values: Tensor) -> Tensor:
        """``[N]`` to ``[R, T]``, with 0 where no token counts. Gradients flow through it."""
        rows = values.new_zeros(self.shape.numel())
        return rows.index_copy(0, self.places, values).view(self.shape)
