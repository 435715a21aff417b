"""Fingerprints of the files that a run is made from, so that it does not go on with others."""

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from textenv.arguments import as_path

CODE = ("reward", "respond")  # which may be "module:name"
NAMES = ("model", "prompts", "eval_prompts", *CODE)  # of the options that may name files
WHOLE = 1 << 24  # bytes of a file that are read; of a larger one so many pieces
PIECES, PIECE = 64, 1 << 16


def fingerprints(options: Any) -> dict[str, str]:
    """The fingerprints of what the options of a run name, as far as these are files."""
    found = {name: fingerprint(getattr(options, name), name in CODE) for name in NAMES}
    return {name: value for name, value in found.items() if value is not None}


def fingerprint(source: Any, may_be_code: bool = False) -> str | None:
    """A fingerprint of a file, of a folder's files, or of all the parts of a list or a mapping;
    None where there is no file. Where it ``may_be_code``, "module:name" is the file of the module:
    to find it Python imports the packages around it, which only who has named them may ask for.

    Of a large file, such as weights, it is that of its size and of pieces of it.
    """
    if isinstance(source, Mapping):
        source = list(source)
    if isinstance(source, list | tuple):
        every = [fingerprint(part, may_be_code) for part in source]
        return hashlib.sha256(json.dumps(every).encode()).hexdigest()[:16] if any(every) else None
    if not isinstance(source, str | os.PathLike):
        return None
    path = as_path(source)
    if may_be_code and not path.exists() and str(source).count(":") == 1:
        try:
            spec = importlib.util.find_spec(str(source).partition(":")[0])
        except (ImportError, ValueError):
            return None
        path = Path(spec.origin) if spec is not None and spec.origin else path
    if path.is_file():
        return _of_files([path])
    return _of_files(sorted(path.iterdir())) if path.is_dir() else None


def _of_files(paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in filter(Path.is_file, paths):
        size = path.stat().st_size
        whole.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            if size <= WHOLE:
                whole.update(file.read())
            else:
                for number in range(PIECES):
                    file.seek((size - PIECE) * number // (PIECES - 1))
                    whole.update(file.read(PIECE))
    return whole.hexdigest()[:16]


def check_unchanged(path: str | Path, before: Mapping[str, str], options: Any) -> None:
    """Raise a ValueError if what the run in a folder was made from has another content now."""
    now = fingerprints(options)
    for name, value in before.items():
        if now.get(name, value) != value:
            raise ValueError(
                f"The run in {str(path)!r} began with other content of {name}="
                f"{getattr(options, name)!r}, which has changed since: put back what was there, "
                "begin a new run, or accept it (accept_changes=True, --accept-changes), for "
                "example after an error was mended."
            )
