"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sige.errors import OutputError

__all__ = ["atomic_write", "check_free_space", "check_output", "flush"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_write(path: Path | str, *, parents: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the same folder, which replaces `path` when the block ends without an exception.

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
    check_output(path)
    # A short part of the name only: with ours around it, a long one would be too long for the file system.
    temporary = path.with_name(f".{path.name[:40]}.{os.urandom(4).hex()}.part")
    try:
        temporary.touch(exist_ok=False)  # gets the umask's mode, which tempfile's 0600 would not be
    except OSError as error:
        raise OutputError(f"{path}: cannot write into {path.parent} ({error.strerror}); take another folder") from error
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OutputError(f"{path}: not written, the disk is full ({error.strerror}); free some space") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    with suppress(OSError):  # some file systems cannot sync a folder; the file is whole either way
        flush(path.parent)


def check_output(path: Path | str) -> None:
    """Refuses a path that `atomic_write` could not write, before anything takes time.

    >>> check_output(folder)
    Traceback (most recent call last):
    sige.errors.OutputError: ... is a folder, expected the name of a file to write
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a folder, expected the name of a file to write")
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is a device or a pipe, expected the name of a file to write")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: the folder {path.parent} does not exist; create it first")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); take another folder") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: writing into {path.parent} is not permitted; take another folder")


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
