"""Files of prompts: their rows, each with the words that say where it was read."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textenv.arguments import first_line

Rows = list[tuple[str, Any]]  # (where, row): the beginning of an error message, and a row


def read_rows(path: Path) -> Rows:
    """The rows of a file of prompts, in their order: a text for each line of a text file, else a
    mapping from columns to values. The ending of its name says how to read it."""
    if not path.is_file():
        raise ValueError(
            f"prompts={str(path)!r} is not a file: check the path, "
            "or pass a list of strings to give the prompts themselves."
        )
    ending = path.suffix.lower()
    if ending not in READERS:
        raise ValueError(
            f"prompts={str(path)!r} ends in {ending!r}, which cannot be read: use "
            f"{', '.join(filter(None, READERS))}, or no ending for one prompt per line."
        )
    return READERS[ending](path)


def _read_text(path: Path) -> Rows:
    # Spaces at the ends of a line are kept: they change how a prompt is tokenised.
    return [(_where(path, number), line) for number, line in _numbered_lines(path)]


def _read_json_lines(path: Path) -> Rows:
    rows: Rows = []
    for number, line in _numbered_lines(path):
        where = _where(path, number)
        fix = 'write one object per line, such as {"prompt": "..."}.'
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is not JSON ({error}): {fix}") from error
        if not isinstance(row, Mapping):
            raise ValueError(f"{where} is {row!r}, which is not an object: {fix}")
        rows.append((where, row))
    return rows


def _read_csv(path: Path) -> Rows:
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    rows: Rows = []
    columns: list[str] | None = None
    begin = 1  # the line on which a row begins; a quoted cell may go on over several lines
    try:
        for cells in reader:
            where, begin = _where(path, begin), reader.line_num + 1
            if not cells:
                continue  # a blank line
            if columns is None:
                columns = cells
                continue
            if len(cells) != len(columns):
                raise ValueError(
                    f"{where} has {len(cells)} cells, but the first line names {len(columns)} "
                    "columns: put a cell that contains commas in double quotes."
                )
            row: dict[str, Any] = dict(zip(columns, cells, strict=True))
            if "messages" in row and "prompt" not in row:
                row["messages"] = _messages_of_cell(row["messages"], where)
            rows.append((where, row))
    except csv.Error as error:
        raise ValueError(
            f"{_where(path, begin)} is not CSV ({error}): put a cell that contains commas, quotes "
            "or line breaks in double quotes, and double the quotes inside it."
        ) from error
    return rows


def _messages_of_cell(cell: str, where: str) -> Any:
    try:
        return json.loads(cell)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where} has the messages {cell!r}, which are not JSON ({error}): write a list such "
            'as [{"role": "user", "content": "..."}], or name a column of texts \'prompt\'.'
        ) from error


def _read_parquet(path: Path) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"prompts={str(path)!r} needs the package pyarrow: install it with `pip install "
            "pyarrow`, or give the prompts as .jsonl or .csv."
        ) from error
    try:
        # Not `parquet.read_table`, which makes columns of the folders' names.
        rows = parquet.ParquetFile(path).read().to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(
            f"prompts={str(path)!r} is not Parquet ({first_line(error)}): write it again."
        ) from error
    return [(_where(path, number, "row"), row) for number, row in enumerate(rows, start=1)]


READERS = {
    ".txt": _read_text, ".jsonl": _read_json_lines, ".json": _read_json_lines, ".csv": _read_csv,
    ".parquet": _read_parquet, "": _read_text,
}  # fmt: skip


def _where(path: Path, number: int, unit: str = "line") -> str:
    return f"prompts={str(path)!r}, {unit} {number},"


def _numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, without their line ends, numbered from 1."""
    text = _text(path).replace("\r\n", "\n").replace("\r", "\n")
    # Not `splitlines`, which also breaks at form feeds and at Unicode separators.
    return [(i, line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _text(path: Path) -> str:
    """The file's text with its line ends as they are, which quoted cells of CSV may contain."""
    try:
        return path.read_bytes().decode("utf-8-sig")  # "-sig" drops the byte order mark of Windows
    except UnicodeDecodeError as error:
        raise ValueError(
            f"prompts={str(path)!r} is not UTF-8 text ({error}): save it as UTF-8."
        ) from error
