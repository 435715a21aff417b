"""Files and folders that are replaced as a whole: a reader finds the old one or the new one.

What is new is written beside its place, forced to the disk, and moved into its place by renaming. A
process that is killed at any moment leaves at most something hidden beside it, which the next one
that writes there removes. A folder that is there already has to be moved aside first, since none
can be renamed over it: a reader asks `current`, in case a process was killed between these two.
"""

import errno
import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file."""
    write_text(path, json.dumps(data, indent=2, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a text file; it keeps its mode."""
    new = _beside(path)
    try:
        with open(new, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            new.chmod(path.stat().st_mode & 0o777)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)  # after an error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new, empty folder that takes the place of ``path`` when the block ends without an error;
    after one, ``path`` is as it was. A file there is a NotADirectoryError."""
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "There is a file", str(path))
    aside = _aside(path)
    if aside.is_dir() and not path.exists():
        aside.rename(path)
    shutil.rmtree(aside, ignore_errors=True)
    new = _beside(path)
    new.mkdir()
    try:
        yield new
        _force_to_disk(*new.rglob("*"), new)
        if path.exists():
            path.rename(aside)
        new.rename(path)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # after an error
    _force_to_disk(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """As `replacing`, for a folder that must not hold anything yet."""
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


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


def _beside(path: Path) -> Path:
    """A new hidden name beside ``path``; what killed processes have left there is removed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.new-*-*"):
        process = left.name.rsplit("-", 2)[-2]
        if process.isdigit() and not _is_running(int(process)):
            if left.is_dir():
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
        return str(error)  # it was written here, for the user
    where = f" {error.filename!r}" if error.filename else ""
    advice = {
        errno.ENOENT: "there is no such file or folder.",
        errno.ENOSPC: "the disk is full: free some space, then go on.",
        errno.EDQUOT: "your quota of the disk is used up: free some space, then go on.",
        errno.EACCES: "you may not write there: choose another folder.",
        errno.EPERM: "you may not write there: choose another folder.",
        errno.EROFS: "the file system is read-only: choose another folder.",
        errno.ENOTDIR: "there is a file where a folder should be: choose another path.",
        errno.EEXIST: "there is a file where a folder should be: choose another path.",
        errno.EAGAIN: "another process is writing this run: wait for its end.",
    }.get(error.errno, f"{error.strerror}.")
    verb = "find" if error.errno == errno.ENOENT else "write"
    return f"Cannot {verb}{where}: {advice}"
