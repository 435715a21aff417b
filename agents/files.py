"""Files and folders that are replaced as a whole: a reader finds the old one or the new one.

What is new is written beside its place, forced to the disk, and moved into its place by one
operation of the file system. A process that is killed at any moment leaves at most a hidden folder
beside it, which the next save removes.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's renameat2
NOT_SUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file."""
    write_text(path, json.dumps(data, indent=2, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a text file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.new-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new, empty folder that takes the place of ``path`` when the block ends without an error.

    An error in the block leaves what was at ``path`` as it was.

    Raises:
        NotADirectoryError: there is a file at ``path``, or at one of its parents.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "There is a file", str(path))
    _recover(path)
    _remove_leftovers(path)
    new = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new-{os.getpid()}-"))
    try:
        os.chmod(new, 0o777 & ~_umask())
        yield new
        _force_to_disk(new)
        _move(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # the new one after an error, else the old one
    _force_to_disk(path.parent, contents=False)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """As `replacing`, for a folder that must not hold anything yet.

    Raises:
        FileExistsError: it is not empty.
    """
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"The folder {str(path)!r} is not empty: choose another one.")
    with replacing(path) as new:
        yield new


def current(path: Path) -> Path:
    """Where a reader finds a folder: at its place or, while it is replaced, beside it."""
    aside = _aside(path)
    return aside if aside.is_dir() and not path.exists() else path


def _recover(path: Path) -> None:
    """Put a folder back that a killed process had moved aside, or remove it (see `_move`)."""
    aside = _aside(path)
    if aside.is_dir() and not path.exists():
        os.rename(aside, path)
    shutil.rmtree(aside, ignore_errors=True)


def link(source: Path, target: Path, ignore: Any = None) -> None:
    """Copy a file or a folder, without copying the content of files where the file system can.

    Args:
        source, target: the file or the folder, and its copy.
        ignore: names to leave out, as `shutil.copytree` takes it.
    """

    def link_file(old: str | Path, new: str | Path) -> None:
        try:
            os.link(old, new)
        except OSError:  # another file system, or one without links
            shutil.copy2(old, new)

    if source.is_dir() and not source.is_symlink():
        shutil.copytree(
            source, target, copy_function=link_file, ignore=ignore, dirs_exist_ok=True,
            symlinks=True,
        )  # fmt: skip
    else:
        link_file(source, target)


def _move(new: Path, path: Path) -> None:
    """Put ``new`` at ``path``; afterwards ``new`` is the old folder, or is missing."""
    if not path.exists():
        os.rename(new, path)
    elif not _exchange(new, path):
        # Between these two renames there is nothing at ``path``; readers call `current`.
        aside = _aside(path)
        os.rename(path, aside)
        os.rename(new, path)
        os.rename(aside, new)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step, where the system can (Linux)."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    paths = AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second)
    if function(*paths, RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in NOT_SUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(second))


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes have left beside ``path``."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.new-*"):
        process = left.name.rsplit("-", 2)[-2]
        if process.isdigit() and not _is_running(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it belongs to another user
    return True


def _force_to_disk(folder: Path, contents: bool = True) -> None:
    """Wait until a folder, and the files in it, would survive a power cut."""
    paths = [*folder.rglob("*"), folder] if contents else [folder]
    for path in paths:
        if path.is_symlink():
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):  # not all file systems can do it for folders
                os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


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
