"""Locks between processes, on a file; the system frees them when a process dies."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO

__all__ = ["hold"]

POLL = 0.02  # seconds


def hold(path: Path, seconds: float = 0.0, *, shared: bool = False) -> IO[bytes] | None:
    """The file, open and locked until it is closed; None where others hold it for so long.

    Shared holders hold it together, and no other beside them. On a file system without locks it is just open.

    >>> with hold(folder / "lock") as held:
    ...     print(hold(folder / "lock"))
    None
    """
    file = path.open("ab")
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() >= end:
                file.close()
                return None
            time.sleep(POLL)
        except OSError:
            return file
