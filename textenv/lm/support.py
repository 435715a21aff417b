"""Which models the row cache can drive: they are tried, not guessed.

Kinds whose failure is known are refused by their name or their configuration. Every other model has
to show, before it is used, that decoding from the cache gives the log-probabilities of its own
plain forward pass: for two rows of different lengths, at the prompt and two steps later.
"""

import math
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from textenv.lm.parts import split, unwrapped

SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}
SUPPORTED_ATTENTION = {"sdpa", "eager"}  # these accept the masks of the row cache
SHORT, STEPS = 6, 2  # tokens of the longer row, and how many of them are decoded one by one
# The largest difference of log-probabilities, nats, between two correct ways to compute them.
TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
# It holds where the log-probabilities of the vocabulary have this standard deviation, as those of
# trained models do. Those of a new model, whose weights are small, are closer together, and so are
# wrong ones to right ones: less is allowed in proportion.
SPREAD = 3.0
# Settings whose number is a length at which a model begins to behave in another way.
LENGTHS = ("window", "local", "chunk", "original_max", "block_size")

# The longest episode with which each model was tried.
_tried: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def check_supported(model: Any, max_length: int) -> None:
    """Raise a ValueError for a causal language model that the row cache, or
    `textenv.lm.parts.split`, gets wrong in episodes of up to ``max_length`` tokens; the message
    says why.

    A model is tried once for each length, since its weights do not matter here.
    """
    _check_kind(model)
    _check_lengths(model, max_length)
    if _tried.get(model, 0) >= max_length:
        return
    length = min(SHORT, max_length)
    settings = unwrapped(model).config.get_text_config().to_dict()
    if any(length <= number <= max_length for number in _special_lengths(settings)):
        length = max_length
    name = type(unwrapped(model)).__name__
    try:
        difference, spread = _difference(model, length)
    except Exception as error:
        raise ValueError(
            f"{name} cannot be driven by the row cache ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}): it is not supported."
        ) from error
    dtype = next(model.parameters()).dtype
    if math.isnan(difference):
        for part, weight in model.named_parameters():
            if not weight.isfinite().all():
                raise ValueError(
                    f"The weights {part!r} of {name} are not all finite numbers: its files are "
                    "damaged, or what trained it has diverged; load another checkpoint."
                )
        raise ValueError(
            f"{name} computes log-probabilities that are not numbers in {dtype}: its hidden states "
            "are too large for it, so load the model in float32 or bfloat16."
        )
    if not difference <= TOLERANCE.get(dtype, 0.5) * min(1.0, spread / SPREAD):
        raise ValueError(
            f"{name} is not supported: token by token from the row cache its log-probabilities "
            f"differ by {difference:.2g} nats from those of its plain forward pass, in rows of "
            f"{length} tokens."
        )
    _tried[model] = max_length


def _check_kind(model: Any) -> None:
    """Refuse what is known by its name or its settings."""
    name, config = type(unwrapped(model)).__name__, unwrapped(model).config
    adapters = getattr(model, "active_peft_config", None)
    if getattr(adapters, "is_prompt_learning", False):
        raise ValueError(
            f"{name} with {type(adapters).__name__} learns virtual tokens, which the row cache "
            "does not have: use adapters in the layers, such as LoRA."
        )
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{name} has an encoder: use a causal language model.")
    text = config.get_text_config()
    if getattr(text, "alibi", False):
        raise ValueError(
            f"{name} has alibi=True, position biases that the row cache does not pass on: it is "
            "not supported."
        )
    layers = set(getattr(text, "layer_types", None) or ["full_attention"])
    if layers - SUPPORTED_LAYERS:
        raise ValueError(
            f"{name} has layers of the types {sorted(layers - SUPPORTED_LAYERS)}; only models made "
            "of attention layers are supported."
        )
    if text._attn_implementation not in SUPPORTED_ATTENTION:
        raise ValueError(
            f"{name} has attn_implementation={text._attn_implementation!r}, but the row cache "
            "needs masks of its own: load the model with 'sdpa' or 'eager'."
        )


def _check_lengths(model: Any, max_length: int) -> None:
    """Refuse episodes that are longer than the context or a sliding window."""
    config, name = unwrapped(model).config.get_text_config(), type(unwrapped(model)).__name__
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and 0 < context < max_length:  # XLNet has −1, for no limit
        raise ValueError(
            f"Episodes may take {max_length} tokens (longest prompt + max_new_tokens), but the "
            f"context of {name} is {context}: lower max_new_tokens or max_prompt_tokens, or in "
            "dialogues, whose replies count as well, max_turns or max_reply_tokens."
        )
    layers = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in (layers or ()) or not layers
    if window and slides and getattr(config, "use_sliding_window", True) and window < max_length:
        raise ValueError(
            f"{name} attends through a sliding window of {window} tokens, shorter than an episode "
            f"({max_length}): lower max_new_tokens or max_prompt_tokens to at most {window} in all."
        )


def _special_lengths(settings: Mapping[str, Any]) -> Iterator[int]:
    """Numbers in a model's settings that are lengths after which it may behave in another way."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _special_lengths(value)
        elif isinstance(value, int) and any(part in key for part in LENGTHS):
            yield value


@torch.no_grad()
def _difference(model: Any, length: int) -> tuple[float, float]:
    """How far the row cache is from plain forward passes, in log-probabilities, nats: the largest
    difference, and the standard deviation over the vocabulary, to compare it with."""
    from textenv.lm.decoder import Decoder  # only now: it imports transformers

    inner = unwrapped(model)
    device = next(inner.parameters()).device
    ends: Any = inner.get_input_embeddings(), inner.get_output_embeddings()
    vocabulary = min(end.weight.shape[0] for end in ends)  # ids that both ends know
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (2, length), generator=generator).to(device)
    ends = torch.tensor([length, max(1, length // 2)])
    body, head = split(model)

    plain = [
        model(input_ids=ids[row, None, :end], use_cache=False).logits[0].float()
        for row, end in enumerate(ends.tolist())
    ]
    # As updates compute them: padded rows, body and head one after the other.
    padded = ids.masked_fill(torch.arange(length, device=device) >= ends[:, None].to(device), 0)
    hidden = body(input_ids=padded, use_cache=False).last_hidden_state
    found = [
        _distance(head(hidden[row, : len(logits)]).float(), logits)
        for row, logits in enumerate(plain)
    ]
    decoder = Decoder(model, num_rows=2, max_length=length)
    for step in range(min(STEPS, int(ends.min()) - 1), -1, -1):
        logits, _ = decoder.next(ids, (ends - step).to(device))
        found += [_distance(logits[row], plain[row][-1 - step]) for row in range(2)]
    log_probs = plain[0].log_softmax(-1)
    worst = float(torch.tensor(found).max())  # not a number if one of them is none
    return worst, float(log_probs[log_probs.isfinite()].std())


def _distance(one: Tensor, other: Tensor) -> float:
    difference = (one.log_softmax(-1) - other.log_softmax(-1)).abs()
    # A token that both exclude has −∞ − (−∞), which is no difference.
    return float(difference.masked_fill(one == other, 0).max())
