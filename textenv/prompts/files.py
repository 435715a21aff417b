"""Rows of files, tables and lists, each with the words that say where it was read.

Prompts and preferences are read here. ``name`` is the argument that messages name; ``"prompts"``
may be files of plain text.
"""

import codecs
import csv
import gzip
import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textenv.arguments import as_path, brief, first_line
from textenv.sharing import columns_of, plain

Rows = list[tuple[str, Any]]  # (where, row): the beginning of an error message, and a row
MAX_BYTES = 2**32  # of a file, uncompressed: a small file may unpack to more than any memory
EXAMPLES = {
    "prompts": '{"prompt": "..."}',
    "preferences": '{"prompt": "...", "chosen": "...", "rejected": "..."}',
}


def read_rows(source: Any, name: str) -> Rows:
    """The rows of a path, a table of pandas, polars or pyarrow, or an iterable; at least one."""
    if isinstance(source, str | os.PathLike):
        rows, named = _rows_of_file(as_path(source), name), f"{name}={str(source)!r}"
    else:
        rows = [(f"{name}[{i}]", row) for i, row in enumerate(_checked_iterable(source, name))]
        named = name
    if not rows:
        raise ValueError(f"{named} is empty: give at least one {name.removesuffix('s')}.")
    return rows


def _checked_iterable(source: Any, name: str) -> Iterable[Any]:
    columns = columns_of(source)
    if columns is not None:
        _check_columns(columns, name)
        return plain(source)
    if isinstance(source, Mapping):  # its names of columns or splits would look like rows
        raise ValueError(
            f"{name} is a {type(source).__name__}, which is not a list of rows: pass one split of "
            f"a dataset, a table of pandas, or a list of rows such as {EXAMPLES[name]}."
        )
    if isinstance(source, set | frozenset):
        raise ValueError(
            f"{name} is a set, whose order changes from one process to the next, and with it "
            f"every seeded run: pass sorted({name})."
        )
    if not isinstance(source, Iterable):
        forms = "'bundled', a path, a list of strings" if name == "prompts" else "a path, a list"
        raise ValueError(
            f"{name}={brief(source)} cannot be read: pass {forms} or a dataset, with rows such as "
            f"{EXAMPLES[name]}."
        )
    return source


def _check_columns(columns: Iterable[Any], where: str) -> None:
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise ValueError(
            f"{where} names the column {brief(twice[0])} twice, of which one would be lost: "
            "rename or remove the other."
        )


# --- files --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """The bytes of a file, uncompressed."""

    path: Path
    name: str
    content: bytes

    def __str__(self) -> str:
        return f"{self.name}={str(self.path)!r}"

    def where(self, number: int, unit: str = "line") -> str:
        return f"{self}, {unit} {number},"

    def text(self) -> str:
        """With its line ends as they are, which quoted cells of CSV may contain."""
        try:
            text = self.content.decode("utf-8-sig")  # "-sig" drops the byte order mark of Windows
        except UnicodeDecodeError as error:
            line = self.content.count(b"\n", 0, error.start) + 1
            marked = self.content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            reason = f"line {line}: {'it is UTF-16' if marked else error.reason}"
            raise ValueError(f"{self} is not UTF-8 text ({reason}): save it as UTF-8.") from error
        if "\0" in text:
            line = text.count("\n", 0, text.index("\0")) + 1
            raise ValueError(
                f"{self} is not UTF-8 text (line {line} has the character NUL, as UTF-16 has): "
                "save it as UTF-8."
            )
        return text

    def lines(self) -> list[tuple[int, str]]:
        """The lines that are not blank, without their line ends, numbered from 1."""
        text = self.text().replace("\r\n", "\n").replace("\r", "\n")
        # Not `splitlines`, which also breaks at form feeds and at Unicode separators.
        return [(i, line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _rows_of_file(path: Path, name: str) -> Rows:
    """The rows in their order: a text for each line of a text file, else a mapping from columns to
    values. The ending of its name says how to read it; what holds no texts is JSON by default."""
    if not path.is_file():
        raise ValueError(
            f"{name}={str(path)!r} is not a file: check the path, "
            "or pass a list of strings to give the prompts themselves."
        )
    packed = path.suffix.lower() == ".gz"
    ending = (path.with_suffix("") if packed else path).suffix.lower()
    reader = READERS.get(ending)
    if name != "prompts" and reader in (None, _read_text):
        reader = _read_json
    if reader is None:
        raise ValueError(
            f"{name}={str(path)!r} ends in {ending!r}, which cannot be read: use "
            f"{', '.join(filter(None, READERS))}, or no ending for one prompt per line."
        )
    try:
        with gzip.open(path) if packed else path.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{name}={str(path)!r} is not a whole file of gzip ({first_line(error)}): write it "
            "again, or remove the ending '.gz' if it is not compressed."
        ) from error
    if len(content) > MAX_BYTES:
        raise ValueError(
            f"{name}={str(path)!r} has more than {MAX_BYTES:,} bytes, which would fill the memory: "
            "choose some of its rows."
        )
    return reader(_File(path, name, content))


def _read_text(file: _File) -> Rows:
    lines = file.lines()
    if lines and re.match(r'\s*\{\s*"(prompt|messages)"\s*:', lines[0][1]):
        raise ValueError(
            f"{file.where(lines[0][0])} is a row of JSON, and each line of a file of this name is "
            "a text: let its name end in '.jsonl'."
        )
    # Spaces at the ends of a line are kept: they change how a prompt is tokenised.
    return [(file.where(number), line) for number, line in lines]


# --- JSON ---------------------------------------------------------------------------------------


def _read_json(file: _File) -> Rows:
    """JSON lines, or one array of rows, or one object that goes on over several lines."""
    lines = file.lines()
    if not lines:
        return []
    begin, first = lines[0]
    rows: Rows
    if first.lstrip()[0] == "[" and (whole := _parsed_whole(file)) is not None:
        rows = [(file.where(i, "item"), row) for i, row in enumerate(whole, start=1)]
    elif len(lines) > 1 and first.strip() == "{":
        rows = [(file.where(begin), _parsed_whole(file) or _parsed(first, file, begin))]
    else:
        rows = [(file.where(number), _parsed(line, file, number)) for number, line in lines]
        for where, row in rows:
            if not isinstance(row, Mapping):
                raise ValueError(
                    f"{where} is {brief(row)}, which is not an object: write one object per line, "
                    f"such as {EXAMPLES[file.name]}."
                )
    return rows


def _parsed_whole(file: _File) -> Any:
    """The value of a file that is one; None if it has several."""
    try:
        return _parsed(file.text(), file, 1)
    except ValueError as error:
        if getattr(error.__cause__, "msg", "") == "Extra data":
            return None
        raise


def _parsed(text: str, file: _File, number: int) -> Any:
    """The value of a text that begins in the line ``number``, or a sentence with the line."""
    where = file.where(number)
    try:
        value = _JSON.decode(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = file.where(number + error.lineno - 1)
        raise ValueError(
            f"{place} is not JSON ({error.msg}, column {error.colno}): write one object per line, "
            f"such as {EXAMPLES[file.name]}, or one array of them."
        ) from error
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise ValueError(
            f"{where} has {half}, one half of a pair that means a character: write the character "
            "itself, or remove the half."
        ) from error
    except RecursionError as error:
        raise ValueError(f"{where} has too many brackets within each other: remove them.") from (
            error
        )
    except ValueError as error:
        if "names the column" in str(error):
            raise ValueError(f"{where}{error}") from error
        raise ValueError(
            f"{where} has a number with too many digits: write it as a text, in quotes."
        ) from error
    return value


def _object(columns: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(columns)
    if len(row) < len(columns):
        _check_columns([name for name, _ in columns], "")
    return row


_JSON = json.JSONDecoder(object_pairs_hook=_object)


# --- CSV and Parquet ----------------------------------------------------------------------------

# A cell with its separator. Spaces around quotes are no part of the cell.
_CELL = re.compile(r'(^|[,\r\n])(?: *("[^"]*(?:""[^"]*)*") *(?=[,\r\n]|\Z)|[^,\r\n]*)')


def _read_csv(file: _File) -> Rows:
    text = file.text()
    if re.search(r'[,\r\n] +"|" +[,\r\n]|^ +"', text):
        text = _CELL.sub(lambda cell: cell[1] + cell[2] if cell[2] else cell[0], text)
    before = csv.field_size_limit(max(len(text), 131_072))
    try:
        return _rows_of_csv(file, csv.reader(io.StringIO(text, newline=""), strict=True))
    finally:
        csv.field_size_limit(before)


def _rows_of_csv(file: _File, reader: Any) -> Rows:
    rows: Rows = []
    columns: list[str] | None = None
    begin = 1  # the line on which a row begins; a quoted cell may go on over several lines
    try:
        for cells in reader:
            where, begin = file.where(begin), reader.line_num + 1
            if not cells:
                continue  # a blank line
            if columns is None:
                columns = [cell.strip() for cell in cells]
                _check_columns(columns, where)
                if len(columns) == 1 and re.search("[;\t]", columns[0]):
                    raise ValueError(
                        f"{where} names the one column {brief(columns[0])}: separate cells by "
                        "commas, not by semicolons or tabs."
                    )
                continue
            if len(cells) != len(columns):
                raise ValueError(
                    f"{where} has {len(cells)} cells, but the first line names {len(columns)} "
                    "columns: put a cell that contains commas in double quotes."
                )
            rows.append((where, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(
            f"{file.where(begin)} is not CSV ({error}): put a cell that contains commas, quotes "
            "or line breaks in double quotes, and double the quotes inside it."
        ) from error
    return rows


def _read_parquet(file: _File) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{file} needs the package pyarrow: install it with `pip install "
            "pyarrow`, or write the rows to a file .jsonl or .csv."
        ) from error
    try:
        # Not `parquet.read_table`, which makes columns of the folders' names.
        table = parquet.ParquetFile(pyarrow.BufferReader(file.content)).read()
        _check_columns(table.column_names, str(file))
        rows = table.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not Parquet ({first_line(error)}): write it again.") from error
    return [(file.where(number, "row"), row) for number, row in enumerate(rows, start=1)]


READERS = {
    ".txt": _read_text, ".jsonl": _read_json, ".json": _read_json, ".csv": _read_csv,
    ".parquet": _read_parquet, "": _read_text,
}  # fmt: skip
