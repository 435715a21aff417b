"""Files and folders that are replaced as a whole: a reader finds the old one or the new one.

What is new is written beside its place, forced to the disk, and moved into its place by renaming. A
process that is killed at any moment leaves at most something hidden beside it, which the next one
that writes there removes. A folder that is there already has to be moved aside first, since none
can be renamed over it: a reader asks `current`, in case a process was killed between these two.

What cannot be written is an OSError, and what cannot be read a `DamagedFile`, whichever library met
it.
"""

import errno
import glob
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from textenv.arguments import as_path, first_line
from textenv.shown import message


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file."""
    write_text(path, json.dumps(data, indent=2, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a text file; it keeps its mode."""
    with replacing_file(path) as new, open(new, "x", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A name for a new file that takes the place of ``path``, and its mode, when the block ends
    without an error. A link there is replaced, and what it points to stays."""
    new = _beside(path)
    try:
        with _errors_of_the_system(path):
            yield new
        _force_to_disk(new)
        if path.exists() and not path.is_symlink():
            new.chmod(path.stat().st_mode & 0o777)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)  # after an error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new, empty folder that takes the place of ``path`` when the block ends without an error;
    after one, ``path`` is as it was. A file there is a NotADirectoryError."""
    path = as_path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "There is a file", str(path))
    aside = _aside(path)
    if aside.is_symlink():
        aside.unlink()
    if aside.is_dir() and not path.exists():
        aside.rename(path)
    shutil.rmtree(aside, ignore_errors=True)
    new = _beside(path)
    new.mkdir()
    try:
        with _errors_of_the_system(path):
            yield new
        _open_to_readers(new)
        _force_to_disk(*new.rglob("*"), new)
        if path.exists():
            path.rename(aside)
        new.rename(path)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # after an error
    _force_to_disk(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """As `replacing`, for a folder that must not hold anything yet."""
    path = as_path(path)
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"The folder {str(path)!r} is not empty: choose another one.")
    with replacing(path) as new:
        yield new


def current(path: Path) -> Path:
    """Where a reader finds a folder: at its place or, while it is replaced, beside it."""
    aside = _aside(path)
    return aside if aside.is_dir() and not path.exists() else path


def link(source: Path, target: Path) -> None:
    """Copy a file or a folder, without copying the content of files where the file system can."""

    def link_file(old: str | Path, new: str | Path) -> None:
        try:
            os.link(old, new)
        except OSError:  # another file system, or one without links
            shutil.copy2(old, new)

    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=link_file, dirs_exist_ok=True)
    else:
        link_file(source, target)


def check_no_links(*paths: Path) -> None:
    """Raise a FileExistsError for a link, since what is written there would be somewhere else."""
    for path in paths:
        if path.is_symlink():
            raise FileExistsError(
                f"{str(path)!r} is a link to {os.readlink(path)!r}, and nothing is written outside "
                "its folder: remove the link, or put what it points to in its place."
            )


# --- reading ------------------------------------------------------------------------------------


class DamagedFile(ValueError):
    """A file that this library has written, and that cannot be read any more."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever the content of a file leads to into a `DamagedFile` that names it."""
    try:
        yield
    except DamagedFile:
        raise
    except OSError as error:
        if error.filename is not None or str(path) in str(error):
            raise  # it says enough
        raise OSError(f"Cannot read {str(path)!r}: {first_line(error)}.") from error
    except Exception as error:
        raise DamagedFile(
            f"{str(path)!r} is damaged, or was not written by this library ({first_line(error)}): "
            "put it back as it was, or take another run or checkpoint."
        ) from error


def read_json(path: Path, kinds: Mapping[str, Any], optional: Mapping[str, Any] = {}) -> Any:
    """The object in a JSON file, whose entries must be of these kinds; FileNotFoundError if there
    is none, `DamagedFile` for anything else."""
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}")
        for name, kind in kinds.items():
            check_kind(name, content[name], kind)
        for name, kind in optional.items():
            if name in content:
                check_kind(name, content[name], kind)
        return content


def check_kind(name: str, value: Any, kind: Any) -> None:
    """Raise a TypeError for a value that is not of a type; True and False are no numbers."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, int | float)):
        raise TypeError(f"{name} is {value!r}")


# --- errors of the system -----------------------------------------------------------------------


@contextmanager
def _errors_of_the_system(path: Path) -> Iterator[None]:
    """Raise what a library says in its own way of a full disk and the like as an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if isinstance(error, UnicodeError):
            raise
        code = _system_code(str(error))
        if code is not None:
            raise OSError(code, os.strerror(code), str(path)) from error
        if isinstance(error, SafetensorError):
            raise OSError(f"Cannot write {str(path)!r}: {first_line(error)}.") from error
        raise


def _system_code(text: str) -> int | None:
    """The number of the error of the system that the message of another library is about."""
    number = re.search(r"os error (\d+)|\[?[Ee]rrno:? (\d+)|Os \{ code: (\d+)", text)
    if number is not None:
        return int(next(filter(None, number.groups())))
    said = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EFBIG)
    return next((code for code in said if os.strerror(code) in text), None)


def _open_to_readers(folder: Path) -> None:
    """Give new files the mode of the umask, as their folder has it: some libraries write files that
    only their owner can read."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:  # else it is one of before
            path.chmod(mode)


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


def _beside(path: Path) -> Path:
    """A new hidden name beside ``path``; what killed processes have left there is removed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.new-*-*"):
        process = left.name.rsplit("-", 2)[-2]
        if process.isdigit() and not _is_running(int(process)):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
    return path.parent / f".{path.name}.new-{os.getpid()}-{secrets.token_hex(4)}"


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it belongs to another user
    return True


def _force_to_disk(*paths: Path) -> None:
    """Wait until files and folders would survive a power cut."""
    for path in paths:
        if path.is_symlink():
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):  # not all file systems can do it for folders
                os.fsync(handle)
        finally:
            os.close(handle)


def in_words(error: OSError) -> str:
    """What a user can do about an error of the file system, in one sentence."""
    if error.errno is None:
        return message(error)  # it was written here, for the user
    path = error.filename2 or error.filename  # of two the one that was to be written
    where = f" {path!r}" if path else ""
    advice = {
        errno.ENOENT: "there is no such file or folder.",
        errno.ENOSPC: "the disk is full: free some space, then go on.",
        errno.EDQUOT: "your quota of the disk is used up: free some space, then go on.",
        errno.EACCES: "you may not write there: choose another folder.",
        errno.EPERM: "you may not write there: choose another folder.",
        errno.EROFS: "the file system is read-only: choose another folder.",
        errno.EIO: "the disk, or the connection to it, has failed: choose another folder.",
        errno.EISDIR: "there is a folder where a file should be: remove it, or choose another "
        "path.",
        errno.ENOTDIR: "there is a file where a folder should be: choose another path.",
        errno.EEXIST: "there is a file where a folder should be: choose another path.",
        errno.EAGAIN: "another process is writing this run: wait for its end.",
    }.get(error.errno, f"{error.strerror}.")
    verb = "find" if error.errno == errno.ENOENT else "write"
    return message(f"Cannot {verb}{where}: {advice}")
