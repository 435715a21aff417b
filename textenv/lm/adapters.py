"""New adapters of low rank (LoRA, Hu et al. 2022) in a causal language model."""

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from textenv.arguments import as_path
from textenv.lm.loading import LOADED_FROM, cast, no_warning_of_peft
from textenv.lm.parts import unwrapped


def add_adapters(model: Any, lora: int | Mapping[str, Any], seed: int | None = None) -> Any:
    """A plain model, changed in place, with new adapters in all its linear layers, which alone
    learn.

    They begin as zero, so that the model is what it was. They are saved without the model, under
    the name of its source. ``lora`` is their rank, or arguments of `peft.LoraConfig`, such as
    ``{"r": 16, "target_modules": [...]}``. The global random state is not changed.
    """
    arguments = dict(lora) if isinstance(lora, Mapping) else {"r": lora}
    rank = arguments.get("r")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"lora={lora!r} must have a rank r of at least 1, such as {{'r': 16}}.")
    if hasattr(model, "peft_config"):
        raise ValueError(f"lora={lora!r}: the model has adapters already; leave lora out.")
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"lora={lora!r} needs peft: pip install 'textenv[lora]', or pip install peft."
        ) from error
    # The product of an adapter's two matrices is multiplied by lora_alpha / r, here 2.
    defaults = {"lora_alpha": 2 * rank, "target_modules": "all-linear"}
    try:
        config = LoraConfig(task_type="CAUSAL_LM", **defaults | arguments)
        with torch.random.fork_rng(devices=[]), no_warning_of_peft():
            if seed is not None:
                torch.manual_seed(seed)
            adapted = get_peft_model(model, config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"lora={lora!r} is refused by peft: {error}") from error
    adapted.peft_config["default"].base_model_name_or_path = getattr(
        model, LOADED_FROM, model.name_or_path
    )
    return adapted.eval()


@contextmanager
def without_casts(model: Any) -> Iterator[None]:
    """A block in which the adapters of a model, if it has some, leave the precision to autocast.
    Else they make float32 of what they read, and autocast makes bfloat16 of it again."""
    # What `peft.helpers.disable_input_dtype_casting` does for the kinds of layers that have this.
    casting = [each for each in model.modules() if getattr(each, "cast_input_dtype_enabled", False)]
    try:
        for layer in casting:
            layer.cast_input_dtype_enabled = False
        yield
    finally:
        for layer in casting:
            layer.cast_input_dtype_enabled = True


def merged(model: Any) -> Any:
    """A copy of a model with its adapters, if it has some, merged into its weights.

    These are then float32: the adapters are small beside them, and would be rounded away.
    """
    copied: Any = copy.deepcopy(model)
    if not hasattr(copied, "merge_and_unload"):
        return copied
    cast(copied, torch.float32)
    _untie(copied)
    whole = copied.merge_and_unload()
    head = whole.get_output_embeddings()
    if head is not None and head.weight is not whole.get_input_embeddings().weight:
        for config in (whole.config, whole.config.get_text_config()):
            config.tie_word_embeddings = False  # else the one would be loaded as the other
    return whole


def _untie(model: Any) -> None:
    """Give embeddings and head a matrix each where one is in both and either has an adapter, which
    would otherwise be merged into both."""
    inner = unwrapped(model)
    ends = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    plain = [getattr(end, "original_module", getattr(end, "base_layer", end)) for end in ends]
    adapted = any(one is not other for one, other in zip(ends, plain, strict=True))
    if adapted and plain[1] is not None and plain[0].weight is plain[1].weight:
        plain[1].weight = torch.nn.Parameter(plain[1].weight.detach().clone())


def has_adapters(model: Any, lora: Any) -> bool:
    """Whether only adapters learn: new ones, those of a live model, or those in a folder."""
    if lora is not None or hasattr(model, "peft_config"):
        return True
    is_path = isinstance(model, str | os.PathLike)
    return is_path and (as_path(model) / "adapter_config.json").is_file()
