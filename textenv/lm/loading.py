"""Load language models and tokenizers from a source (`textenv.lm.sources`); a live one stays."""

from __future__ import annotations

import copy
import io
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from textenv.arguments import as_path, first_line
from textenv.lm.allocator import keep_freed_memory
from textenv.lm.forks import compute_in_forks
from textenv.lm.parts import sharing, unwrapped
from textenv.lm.products import with_fast_products
from textenv.lm.sources import BUNDLED, find

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ATTENTION = (None, "eager", "sdpa", "flex_attention")  # what a config may name
LOADED_FROM = "loaded_from"  # the attribute that stores the source of a loaded object

compute_in_forks()


def hide_progress_bars() -> None:
    """Turn off the messages of transformers while it loads; the command line has its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


@contextmanager
def without_bars() -> Iterator[None]:
    """No bars of transformers for what is loaded and saved here; those of the user's own stay."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def reading(refusal: str) -> Iterator[None]:
    """Within it the files of a model are read by transformers, whose errors, and there are many
    kinds, become a ValueError with this sentence, in which ``{why}`` is what was wrong."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(refusal.replace("{why}", first_line(error))) from error


def load_tokenizer(source: str | os.PathLike[str] | PreTrainedTokenizerBase):
    """The tokenizer of ``source`` (see `textenv.lm.sources`); a live one is returned as it is. A
    ValueError says that there is none with the model."""
    if not isinstance(source, str | os.PathLike):
        if not hasattr(source, "get_vocab"):
            raise TypeError(f"tokenizer={source!r} is no tokenizer of transformers, and no source.")
        return source
    from transformers import AutoTokenizer

    name, keywords = find(source)
    missing = (
        f"tokenizer={str(source)!r}: there is no tokenizer beside the model, or none that can be "
        "read; save one there with tokenizer.save_pretrained, or name its own folder or hub id."
    )
    with reading(missing):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **keywords)
    # Without its files, transformers makes an empty tokenizer for some architectures.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(missing)
    setattr(tokenizer, LOADED_FROM, os.fspath(source))
    return tokenizer


def end_tokens(tokenizer: Any) -> list[int]:
    """The ids that end a sequence: the tokenizer's, and those of its model's generation config.

    Chat models often end their turn with another token than the tokenizer's end of sequence. The
    config is read beside the tokenizer, from what is on this machine.
    """
    tokens = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    source = getattr(tokenizer, LOADED_FROM, None) or getattr(tokenizer, "name_or_path", None)
    return sorted({*tokens, *ends_of_model(source)})


def ends_of_model(model: Any) -> list[int]:
    """The ids with which a model ends a sequence, as its generation config says: that of a live
    model, or the one in the files of a source, as far as these are on this machine.

    A live model that nobody gave a generation config has the default of its architecture, which
    says nothing of its tokenizer.
    """
    if model is None or isinstance(model, str | os.PathLike):
        ends = _saved_ends(model) if model else None
    else:
        config = getattr(unwrapped(model), "generation_config", None)
        ends = getattr(config, "eos_token_id", None)
        if isinstance(ends, int) and getattr(config, "_from_model_config", False):
            ends = None
    return list(ends) if isinstance(ends, list | tuple) else [] if ends is None else [int(ends)]


def _saved_ends(source: str | os.PathLike[str]) -> Any:
    """What the generation config in the files of a model says of the ends of a sequence."""
    folder = BUNDLED if source == "bundled" else as_path(source)
    file: Path | None = folder / "generation_config.json"
    if not folder.is_dir() and str(source).count("/") == 1:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(str(source), "generation_config.json")
        file = Path(cached) if isinstance(cached, str) else None
    if file is None or not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"The file {str(file)!r} is damaged ({first_line(error)}).") from error


def save_ends(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write the generation config of a model beside it, or beside its adapters, with every token
    that ends a sequence, of the model and of the tokenizer, wherever that was read."""
    config = getattr(unwrapped(model), "generation_config", None)
    if config is None:
        return
    own = config.eos_token_id
    known = {*(own if isinstance(own, list) else [own])} - {None}
    ends = {*end_tokens(tokenizer), *ends_of_model(model)}
    config = copy.deepcopy(config)
    if ends - known:
        config.eos_token_id = sorted(ends | known)
    config.to_json_file(folder / "generation_config.json")


def load_model(
    source: str | os.PathLike[str] | PreTrainedModel,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    attn_implementation: str | None = None,
    frozen: PreTrainedModel | None = None,
) -> PreTrainedModel:
    """The causal language model of ``source``, in ``eval`` mode: dropout is off from the start.

    Args:
        source: see `textenv.lm.sources`; a live model is moved to ``device``, and only the way in
            which it makes products may change (`textenv.lm.products`).
        dtype: the dtype of the weights. GGUF files are dequantised to it.
        device: the device of the model; ``None`` means the CPU.
        attn_implementation: ``"sdpa"``, ``"eager"``, ...; ``None`` lets transformers choose.
            Second derivatives (Fisher-vector products) need ``"eager"``.
        frozen: a loaded model. If it is of this source, or of the base of its adapters, its weights
            are shared, whatever their dtype: the caller must not change them.

    Raises:
        FileNotFoundError, ModuleNotFoundError: there is no such source.
        ValueError: its files are damaged, incomplete, or those of another kind of model.
    """
    if torch.device(device or "cpu").type == "cpu":
        keep_freed_memory()
    if frozen is not None and is_from(frozen, source):
        shared = sharing(frozen, frozen.parameters())
        if attn_implementation is not None:
            shared.set_attn_implementation(attn_implementation)
        return shared
    if not isinstance(source, str | os.PathLike):
        if not isinstance(source, nn.Module):
            raise TypeError(f"{source!r} is no model of transformers, and no source of one.")
        live: Any = with_fast_products(source)
        return live.to(device) if device is not None else live
    from transformers import AutoModelForCausalLM

    name, keywords = find(source)
    if attn_implementation is not None:
        keywords["attn_implementation"] = attn_implementation
    adapters, config = (Path(name) / f"{kind}.json" for kind in ("adapter_config", "config"))
    if Path(name).is_dir() and not (
        adapters.is_file() or config.is_file() or "gguf_file" in keywords
    ):
        raise FileNotFoundError(
            f"The folder {name!r} holds no model: give one written by save_pretrained."
        )
    if adapters.is_file():
        model = _with_adapters(
            name, dtype=dtype, attn_implementation=attn_implementation, frozen=frozen
        )
        setattr(unwrapped(model), LOADED_FROM, os.fspath(source))
        return with_fast_products(model.to(device).eval())
    if attn_implementation is None and "gguf_file" not in keywords:
        check_names_no_code(name)
    # transformers may keep the weights of a GGUF file packed unless float32 is requested.
    packed = "gguf_file" in keywords
    read_as = torch.float32 if packed else dtype
    # It also shows a progress bar for each tensor of such a file, whatever its settings are.
    silence = redirect_stderr(io.StringIO()) if packed else nullcontext()
    refusal = (
        f"The model {os.fspath(source)!r} cannot be read ({{why}}): its files are damaged or "
        "incomplete, or it is no causal language model that transformers knows."
    )
    # Missing weights are drawn at random, before they are refused below.
    with reading(refusal), silence, without_bars(), torch.random.fork_rng(devices=[]):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=read_as, trust_remote_code=False, output_loading_info=True, **keywords
        )
        model, report = loaded
    check_complete(source, report["missing_keys"])
    if packed:
        model = cast(_without_quantization_mark(model), dtype)
    setattr(model, LOADED_FROM, os.fspath(source))
    return with_fast_products(model.to(device).eval())


def check_names_no_code(name: str) -> None:
    """Raise a ValueError if the config of a model in a folder or on the hub names a way to compute
    attention that transformers would load from the hub, as code."""
    from transformers import PretrainedConfig

    def check(part: Any) -> None:
        for key, value in part.items() if isinstance(part, dict) else ():
            if key.lstrip("_").startswith("attn_implementation"):
                for each in value.values() if isinstance(value, dict) else [value]:
                    if each not in ATTENTION:
                        raise ValueError(
                            f"The config.json of {name!r} has {key}={each!r}, which may name code "
                            "of the hub, and code that a file names is not loaded: remove the "
                            "entry, or name it yourself, attn_implementation=."
                        )
            check(value)

    try:
        config = PretrainedConfig.get_config_dict(name)[0]
    except Exception:
        return  # loading it says why
    check(config)


def is_from(model: Any, source: Any) -> bool:
    """Whether a loaded model is that of a source, a live one included, without adapters."""
    if hasattr(model, "peft_config"):
        return False
    if isinstance(source, str | os.PathLike):
        return getattr(model, LOADED_FROM, None) == os.fspath(source)
    return model is source


def check_complete(source: str | os.PathLike[str], missing: Iterable[str]) -> None:
    """Raise an error for weights that a model's files lack: they would be random numbers."""
    names = sorted(missing)
    if names:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ValueError(
            f"The model {os.fspath(source)!r} is incomplete: its files do not hold the weights "
            f"{names[0]!r}{others}, which would be random numbers. Download or save it again; or "
            "its config.json describes another model."
        )


def _with_adapters(folder: str, **loading: Any):
    """The base model of the adapters in a folder, wrapped by PEFT so that the adapters can learn;
    `from_pretrained` would keep them fixed. ``loading``: arguments of `load_model`."""
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    base = PeftConfig.from_pretrained(folder).base_model_name_or_path
    if not base:
        raise ValueError(
            f"The adapters in {folder!r} don't say which base model they belong to: load that one "
            "and pass peft.PeftModel.from_pretrained(base, folder, is_trainable=True)."
        )
    model = load_model(base, **loading)
    # PEFT only warns of weights that its file lacks.
    with no_warning_of_peft():
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=True)
    saved = load_peft_weights(folder, device="cpu")
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    check_complete(folder, set(wanted) - set(saved))
    return adapted


@contextmanager
def no_warning_of_peft() -> Iterator[None]:
    """No warning that an attribute which peft reads has another name now."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
        yield


@torch.no_grad()
def new_model(cls: Any, config: Any) -> Any:
    """A model of a class of transformers with random weights, in float32."""
    attention = getattr(config, "_attn_implementation", None)
    return cls._from_config(config, attn_implementation=attention, dtype=torch.float32)


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Change the precision of the weights only, in place.

    ``model.to(dtype)`` would round the buffers as well, including the frequencies of rotary
    embeddings: at column 40 this is an error of several degrees.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _without_quantization_mark(model: PreTrainedModel) -> PreTrainedModel:
    """Put dequantised weights into a plain model.

    A model that transformers reads from GGUF is marked as quantised although its weights are not,
    and transformers then refuses to save or to train it.
    """
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.random.fork_rng(devices=[]):  # these initial weights are replaced at once
        plain = type(model)._from_config(config, dtype=model.dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain
