"""Rows of prompts and responses that a model scores, and which of their tokens count."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from textenv.arrays import to_device, to_host
from textenv.lm.early_stops import all_early_stops


def columns_of_actions(
    prompt_lengths: Tensor, num_steps: int, own_tokens: Tensor | None = None
) -> Tensor:
    """The columns ``[B, T]`` of the first T response tokens of rows, with prompts of the lengths
    ``[B]``; beyond the end of a response arbitrary ones. ``own_tokens`` as of `Responses`."""
    if own_tokens is None:
        return prompt_lengths[:, None] + torch.arange(num_steps, device=prompt_lengths.device)
    # The columns of 1 come first, in their order.
    columns = torch.as_tensor(own_tokens).argsort(dim=1, descending=True, stable=True)
    return torch.nn.functional.pad(columns, (0, max(num_steps - columns.shape[1], 0)))[
        :, :num_steps
    ]


class Responses:
    """Rows ``[R, L]`` of tokens, of which some response tokens count: N in all.

    The tokens are on the host, where it is decided which ones a model reads together. From an
    accelerator they come in one copy, and nothing here waits for it again.

    Prompt and response are contiguous from column 0. Response token t of a row is at column
    ``prompt_length + t``; in a dialogue, where replies are between them, ``own_tokens`` ``[R, L]``
    are 1 in the columns of response tokens. It is predicted from the column before it, and counts
    where the mask, bool ``[R, T]``, says so.
    """

    def __init__(
        self,
        input_ids: Tensor,
        prompt_lengths: Tensor,
        mask: Tensor,
        own_tokens: Tensor | None = None,
    ):
        self.device, self.shape = mask.device, mask.shape
        parts = [input_ids, prompt_lengths, mask, *([] if own_tokens is None else [own_tokens])]
        self.input_ids, self.prompt_lengths, self.mask, *own = to_host(*parts)
        # Of each response token, counted from the prompt's end.
        self.offsets = torch.arange(mask.shape[1]).expand(mask.shape)
        if own:
            columns = columns_of_actions(self.prompt_lengths, mask.shape[1], own[0])
            self.offsets = columns - self.prompt_lengths[:, None]
        # Of what follows the prompts, as far as response tokens count in it.
        self.lengths = (self.mask * (self.offsets + 1)).amax(dim=1)
        # Of the counted tokens among all R · T.
        self.places = to_device(self.mask.flatten().nonzero()[:, 0], self.device)

    @classmethod
    def of(cls, observations: Mapping[str, Any], mask: Tensor) -> Self:
        """Those of the observations that `agents.policies.base.Policy.evaluate` takes."""
        own_tokens = observations.get("own_tokens")
        return cls(observations["input_ids"], observations["prompt_lengths"], mask, own_tokens)

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
        """``[N, ...]`` to ``[R, T, ...]``, with 0 where no token counts. Gradients flow through
        it."""
        rows = values.new_zeros(self.shape.numel(), *values.shape[1:])
        return rows.index_copy(0, self.places, values).unflatten(0, self.shape)
