"""Read each prompt once, and then the responses that follow it.

The members of a group have the same prompt. Where it is long and the responses are short, most of
a plain forward pass would compute the same thing again for each of them. Here the keys and values
of each different prompt are computed once, and the responses attend to them; gradients flow through
both, so that this is the same function of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from textenv.lm.cache import CachedBody, PromptCache

MIN_PASS = 256  # tokens of a forward pass, padding included, unless there are fewer
# Of all tokens at least this share, and a pass of the least size, must be saved by reading prompts
# once, since two passes cost more than one.
WORTH = 0.25

# Rows [r], hidden states [r, T, H], and the column [r] from which the first response token of each
# row is predicted.
Pass = tuple[Tensor, Tensor, Tensor]


class Prompts(NamedTuple):
    """Different prompts, and the rows that begin with them.

    Attributes:
        input_ids: ``[P, L]``, contiguous from column 0.
        lengths: ``[P]``.
        of_rows: ``[R]``, the index of each row's prompt.
    """

    input_ids: Tensor
    lengths: Tensor
    of_rows: Tensor


def repeated_prompts(input_ids: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Prompts | None:
    """The different prompts of some rows; None if it is not worth while to read them once.

    Args:
        input_ids: ``[R, L]``, prompts and responses.
        prompt_lengths, lengths: ``[R]``, of prompts and responses.
    """
    on_host = prompt_lengths.cpu()
    width = int(on_host.max())
    beyond = torch.arange(width, device=input_ids.device) >= prompt_lengths[:, None]
    rows = torch.cat([input_ids[:, :width].masked_fill(beyond, 0), prompt_lengths[:, None]], dim=1)
    distinct, of_rows = torch.unique(rows, dim=0, return_inverse=True)
    prompts = Prompts(distinct[:, :-1], distinct[:, -1], of_rows)
    saved = int(on_host.sum() - prompts.lengths.cpu().sum())
    every = int(on_host.sum() + lengths.cpu().sum())
    return prompts if saved >= max(MIN_PASS, WORTH * every) else None


def after_prompts(
    body: nn.Module,
    input_ids: Tensor,
    prompt_lengths: Tensor,
    lengths: Tensor,
    prompts: Prompts,
) -> Iterator[Pass]:
    """Passes that read each prompt once, and then the responses.

    Args:
        body: a model's body.
        input_ids: ``[R, L]``, prompts and responses.
        prompt_lengths, lengths: ``[R]``, of prompts and responses; rows without response are left
            out.
        prompts: of `repeated_prompts`.
    """
    device, read = input_ids.device, CachedBody(body)
    asked = torch.zeros_like(prompts.lengths).index_add_(0, prompts.of_rows, lengths)
    for chosen, width in by_length(prompts.lengths.masked_fill(asked == 0, 0).cpu()):
        chosen = chosen.to(device)
        cache, columns = PromptCache(body), torch.arange(width, device=device)
        causal = (columns <= columns[:, None])[None, None].expand(len(chosen), 1, -1, -1)
        hidden = read(
            cache, prompts.input_ids[chosen, :width], columns.expand(len(chosen), -1), causal
        )
        last = hidden[torch.arange(len(chosen), device=device), prompts.lengths[chosen] - 1]
        number = torch.full_like(prompts.lengths, -1)  # of each prompt in this pass
        number[chosen] = torch.arange(len(chosen), device=device)
        here = number[prompts.of_rows] >= 0
        # The last token of a response is predicted, but not read.
        for rows, count in by_length(torch.where(here, lengths, 0).cpu()):
            rows = rows.to(device)
            sources, begins = number[prompts.of_rows[rows]], prompt_lengths[rows][:, None]
            hidden = last[sources][:, None]
            if count > 1:
                steps = torch.arange(count - 1, device=device)
                # Beyond a shorter response there is anything, which nothing looks at.
                places = (begins + steps).clamp(max=input_ids.shape[1] - 1)
                tokens = input_ids[rows].gather(1, places)
                of_prompt = (columns < begins)[:, None].expand(-1, len(steps), -1)
                of_response = (steps <= steps[:, None]).expand(len(rows), -1, -1)
                mask = torch.cat([of_prompt, of_response], dim=2)[:, None]
                cache.go_on(sources, width)
                following = read(cache, tokens, places, mask)
                hidden = torch.cat([hidden, following], dim=1)
            yield rows, hidden, torch.zeros_like(rows)


def by_length(lengths: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Rows in passes of similar length: their indices, and the longest of their lengths.

    A pass ends where the next row is a quarter shorter than its longest, if it already has
    `MIN_PASS` tokens: many small passes cost more than some padding.

    Args:
        lengths: ``[R]`` int64 on the CPU; rows of length 0 are left out.
    """
    in_order, order = lengths.sort(descending=True, stable=True)
    order, sizes = order[in_order > 0], in_order[in_order > 0].tolist()
    begin = 0
    for row in range(1, len(sizes) + 1):
        longest = sizes[begin]
        full = (row - begin) * longest >= MIN_PASS
        if row == len(sizes) or (full and 4 * sizes[row] <= 3 * longest):
            yield order[begin:row], longest
            begin = row
