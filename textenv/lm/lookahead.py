"""States one token further: what a body sees after each of several tokens that could have followed.

Appending a token is all that a step of generation does, so that its next state is known before it
is taken. All tokens that are asked about are read in one pass, in which each sees its prefix and
itself.
"""

import torch
from torch import Tensor, nn

from textenv.arrays import to_device
from textenv.lm.cache import CachedBody, PromptCache
from textenv.lm.responses import Responses
from textenv.lm.shared_prompts import by_length

ELEMENTS = 2**24  # of the masks of one pass


@torch.no_grad()
def states_after(body: nn.Module, responses: Responses, tokens: Tensor) -> Tensor:
    """Hidden states ``[N, K, H]`` of a body after each of K ``tokens`` ``[N, K]`` that are put in
    the place of each counted response token."""
    mask, device, count = responses.mask, responses.device, tokens.shape[1]
    place = (mask.flatten().cumsum(0) - 1).view(mask.shape)  # of each counted token among N
    columns = responses.prompt_lengths[:, None] + responses.offsets  # of response tokens
    read, states, places = CachedBody(body), [], []
    prefixes = responses.prompt_lengths + responses.lengths - 1  # that predict counted tokens
    for group, width in by_length(prefixes.masked_fill(responses.lengths == 0, 0)):
        most = int(mask[group].sum(dim=1).max())
        at_once = max(1, ELEMENTS // (most * count * (width + most * count)))
        for rows in group.split(at_once):
            # The counted steps of each row first, and then any others.
            steps = mask[rows].long().argsort(dim=1, descending=True, stable=True)[:, :most]
            counted, at = mask[rows].gather(1, steps), place[rows].gather(1, steps)
            some = tokens[to_device(at.clamp(min=0), device)].flatten(1)
            column = columns[rows].gather(1, steps).clamp(max=width)
            column = to_device(column, device).repeat_interleave(count, dim=1)
            cache, every = PromptCache(body), torch.arange(width, device=device)
            causal = (every <= every[:, None])[None, None].expand(len(rows), 1, -1, -1)
            prefix = to_device(responses.input_ids[rows, :width], device)
            read(cache, prefix, every.expand(len(rows), -1), causal)
            cache.go_on(torch.arange(len(rows), device=device), width)
            before = every < column[:, :, None]
            itself = torch.eye(some.shape[1], dtype=torch.bool, device=device)
            seen = torch.cat([before, itself.expand(len(rows), -1, -1)], dim=2)[:, None]
            hidden = read(cache, some, column, seen).unflatten(1, (-1, count))
            states.append(hidden[to_device(counted, device)])
            places.append(at[counted])
    return torch.cat(states)[to_device(torch.cat(places).argsort(), device)]
