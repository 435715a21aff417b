"""Read each prompt once, and then the responses that follow it.

The members of a group have the same prompt. Where it is long and the responses are short, most of
a plain forward pass would compute the same thing again for each of them. Here the keys and values
of each different prompt are computed once, and the responses attend to them; gradients flow through
both, so that this is the same function of the weights.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from textenv.arrays import to_device
from textenv.lm.cache import CachedBody, PromptCache
from textenv.lm.responses import Responses

MIN_PASS = 256  # tokens of a forward pass, padding included, unless there are fewer
# Of all tokens at least this share, and a pass of the least size, must be saved by reading prompts
# once, since two passes cost more than one.
WORTH = 0.25

# Rows [r], hidden states [r, T, H], and the column [r] from which the first response token of each
# row is predicted; rows and columns on the CPU.
Pass = tuple[Tensor, Tensor, Tensor]


class Prompts(NamedTuple):
    """Different prompts, and the rows that begin with them; on the CPU."""

    input_ids: Tensor  # [P, L], contiguous from column 0
    lengths: Tensor  # [P]
    prompt_of_row: Tensor  # [R], the index of each row's prompt


def repeated_prompts(responses: Responses) -> Prompts | None:
    """The different prompts of some rows; None if it is not worth while to read them once."""
    lengths = responses.prompt_lengths
    width = int(lengths.max())
    beyond = torch.arange(width) >= lengths[:, None]
    tokens = responses.input_ids[:, :width].masked_fill(beyond, 0)
    distinct, prompt_of_row = torch.unique(
        torch.cat([tokens, lengths[:, None]], dim=1), dim=0, return_inverse=True
    )
    prompts = Prompts(distinct[:, :-1], distinct[:, -1], prompt_of_row)
    saved = int(lengths.sum() - prompts.lengths.sum())
    every = int(lengths.sum() + responses.lengths.sum())
    return prompts if saved >= max(MIN_PASS, WORTH * every) else None


def after_prompts(body: nn.Module, responses: Responses, prompts: Prompts) -> Iterator[Pass]:
    """Passes that read each prompt once, and then the responses. Those of length 0 are left out."""
    device, read, lengths = responses.device, CachedBody(body), responses.lengths
    asked = torch.zeros_like(prompts.lengths).index_add_(0, prompts.prompt_of_row, lengths)
    for chosen, width in by_length(prompts.lengths.masked_fill(asked == 0, 0)):
        cache, columns = PromptCache(body), torch.arange(width, device=device)
        causal = (columns <= columns[:, None])[None, None].expand(len(chosen), 1, -1, -1)
        tokens = to_device(prompts.input_ids[chosen, :width], device)
        hidden = read(cache, tokens, columns.expand(len(chosen), -1), causal)
        at = to_device(prompts.lengths[chosen] - 1, device)
        last = hidden[torch.arange(len(chosen), device=device), at]
        number = torch.full_like(prompts.lengths, -1)  # of each prompt in this pass
        number[chosen] = torch.arange(len(chosen))
        here = number[prompts.prompt_of_row] >= 0
        # The last token of a response is predicted, but not read.
        for rows, count in by_length(torch.where(here, lengths, 0)):
            sources = to_device(number[prompts.prompt_of_row[rows]], device)
            hidden = last[sources][:, None]
            if count > 1:
                begins = responses.prompt_lengths[rows][:, None]
                # Beyond a shorter response there is anything, which nothing looks at.
                end = responses.input_ids.shape[1] - 1
                places = (begins + torch.arange(count - 1)).clamp(max=end)
                tokens = to_device(responses.input_ids[rows].gather(1, places), device)
                begins, places = to_device(begins, device), to_device(places, device)
                steps = torch.arange(count - 1, device=device)
                prompt_mask = (columns < begins)[:, None].expand(-1, len(steps), -1)
                response_mask = (steps <= steps[:, None]).expand(len(rows), -1, -1)
                mask = torch.cat([prompt_mask, response_mask], dim=2)[:, None]
                cache.go_on(sources, width)
                following = read(cache, tokens, places, mask)
                hidden = torch.cat([hidden, following], dim=1)
            yield rows, hidden, torch.zeros_like(rows)


def by_length(lengths: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Rows in passes of similar length: their indices, and the longest of their lengths ``[R]``,
    which are on the CPU. Rows of length 0 are left out.

    A pass ends where the next row is a quarter shorter than its longest, if it already has
    `MIN_PASS` tokens: many small passes cost more than some padding.
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
