"""Folders for unfinished files: their names say who writes into them, so that those of dead processes are removed.

A name is `.NAME.HOST.SPACE.PID.START.RANDOM.part`. A process number is used again after a while; with the time at which
the process began, it is not. `SPACE` is the kernel's number for the processes that see each other: a container has its
own. Of another host, or another container, one cannot tell who is alive: such a folder goes after a week of silence.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["part_name", "remove_leftovers"]

SILENCE = 7 * 24 * 3600  # seconds without a change, after which a writer that cannot be asked counts as dead
_NAME = re.compile(r"\..*\.([\w-]+)\.(\d+)\.(\d+)\.(\d+)\.[0-9a-f]{8}\.part", re.DOTALL)


def part_name(name: str) -> str:
    """A new name for a folder in which this process makes `name`; short enough for any file system."""
    pid = os.getpid()
    _, start = _state(pid)
    return f".{name[:30]}.{_host()}.{_space()}.{pid}.{start}.{os.urandom(4).hex()}.part"


def remove_leftovers(folder: Path) -> None:
    """Removes what dead processes left in the folder; another process may do the same meanwhile."""
    with suppress(OSError):
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(".part")]
        for name in names:
            match = _NAME.fullmatch(name)
            if match and _is_left(folder / name, *match.groups()):
                shutil.rmtree(folder / name, ignore_errors=True)


def _is_left(path: Path, host: str, space: str, pid: str, start: str) -> bool:
    if (host, space) == (_host(), _space()):
        return not _is_alive(int(pid), start)
    return time.time() - _last_change(path) > SILENCE


def _is_alive(pid: int, start: str) -> bool:
    """Says whether the process that began then still runs; one of another user counts as long as its number is used."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return False
    state, began = _state(pid)
    return state not in ("Z", "X") and began in (start, "0")


def _state(pid: int) -> tuple[str, str]:
    """One letter for what the process does, and when it began, in ticks of the machine's clock; "0": not known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "?", "0"
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return fields[0], fields[19]


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:20] or "-"


def _space() -> str:
    try:
        return re.sub(r"\D", "", os.readlink("/proc/self/ns/pid")) or "0"
    except OSError:
        return "0"


def _last_change(path: Path) -> float:
    return max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
