"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sige.errors import OutputError
from sige.leftovers import part_name, remove_leftovers

__all__ = ["atomic_write", "check_free_space", "check_output", "flush", "named_if_full", "unfinished"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_IN_WORDS = re.compile(r"No space left on device|\bos error (28|122|27)\b")  # what libraries in Rust say


@contextmanager
def atomic_write(path: Path | str, *, parents: bool = False) -> Iterator[Path]:
    """Yields a temporary path, which replaces `path` when the block ends without an exception.

    The data reach the disk first; killed at any moment, `path` is the old file or the new one. A link is replaced by
    the new file: what it pointed to, perhaps a blob of a shared cache, stays as it was. With `parents` the folder is
    created where it is missing.

    >>> with atomic_write(folder / "result.txt") as temporary:
    ...     _ = temporary.write_text("done")
    >>> (folder / "result.txt").read_text()
    'done'
    """
    path = Path(path)
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(path) as folder, named_if_full(path):
        temporary = folder / path.name
        temporary.touch(exist_ok=False)  # gets the umask's mode, which tempfile's 0600 would not be
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    with suppress(OSError):  # some file systems cannot sync a folder; the file is whole either way
        flush(path.parent)


@contextmanager
def unfinished(path: Path | str) -> Iterator[Path]:
    """Yields a folder beside `path`, for what is not yet finished, and removes it in the end with all that is in it.

    Libraries put files of their own beside the one that they write, so a process that is killed leaves this one folder;
    the next that writes beside it removes it.
    """
    path = Path(path)
    check_output(path)
    folder = path.with_name(part_name(path.name))
    try:
        folder.mkdir()
    except OSError as error:
        raise OutputError(f"{path}: cannot write into {path.parent} ({error.strerror}); take another folder") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def named_if_full(path: Path | str) -> Iterator[None]:
    """Inside, the error of a full disk, from whichever library, becomes an `OutputError` that names the path."""
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        raise OutputError(f"{path}: not written, the disk is full; free some space, or take another folder") from error


def _is_full(error: BaseException | None) -> bool:
    """Says whether the error, or one that led to it, came from a full disk."""
    if error is None:
        return False
    if isinstance(error, OSError):
        full = error.errno in _FULL
    else:
        full = _FULL_IN_WORDS.search(str(error)) is not None
    return full or _is_full(error.__cause__ or error.__context__)


def check_output(path: Path | str) -> None:
    """Refuses a path that `atomic_write` could not write, before anything takes time.

    Also removes what killed processes left beside it, which may fill the disk.

    >>> check_output(folder)
    Traceback (most recent call last):
    sige.errors.OutputError: ... is a folder, expected the name of a file to write
    """
    path = Path(path)
    try:
        os.fsencode(path)
        if "\0" in str(path):
            raise OutputError(f"{path}: has a zero byte in its name; take another name")
        if path.is_dir():
            raise OutputError(f"{path} is a folder, expected the name of a file to write")
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is a device or a pipe, expected the name of a file to write")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: the folder {path.parent} does not exist; create it first")
    except UnicodeEncodeError as error:
        raise OutputError(f"{path}: has a name that the disk cannot hold; take another name") from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); take another folder") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: writing into {path.parent} is not permitted; take another folder")
    remove_leftovers(path.parent)


def check_free_space(path: Path | str, needed: int) -> None:
    """Refuses to start writing `needed` bytes where they do not fit."""
    path = Path(path)
    check_output(path)
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OutputError(
            f"{path}: needs {needed / 1e9:.2f} GB, but {path.parent} has {free / 1e9:.2f} GB free; "
            "free some space or take another folder"
        )


def flush(path: Path) -> None:
    """Waits until the file, or the folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
