"""Runs one case and says what is wrong with how it ended, if anything."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any

from sige.errors import SigeError

__all__ = ["MOST_BYTES", "MOST_SECONDS", "Finding", "guarded"]

MOST_SECONDS = 5.0
MOST_BYTES = 500 * 10**6
MOST_LINE = 5000  # characters of a line that is printed
_CONTROL = re.compile("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Finding:
    """What is wrong: a short key, equal for the same fault, and the details."""

    key: str
    details: str


class _Hang(BaseException):
    """Raised in the case when its time is up; no handler of errors catches it."""


def guarded(case: Callable[[], object], seconds: float = MOST_SECONDS) -> Finding | None:
    """Runs the case. A case may end well, with an error of ours, or with the status 0 or 2.

    A case that takes too long is run again, for another program may have slowed the machine.
    """
    finding = _once(case, seconds)
    return _once(case, seconds) if finding is not None and finding.key.startswith("hang") else finding


def _once(case: Callable[[], object], seconds: float) -> Finding | None:
    before, began = _resident("VmRSS"), perf_counter()
    counted = _reset_peak()
    with _printed() as printed:
        finding = _ended(case, seconds)
    if perf_counter() - began > seconds and finding is None:
        finding = Finding("hang", f"{perf_counter() - began:.1f} s, in code that cannot be interrupted")
    if finding is None and counted and (grown := _resident("VmHWM") - before) > MOST_BYTES:
        finding = Finding("memory", f"{grown / 1e6:.0f} MB more than before")
    return finding or _unfit(printed)


def _ended(case: Callable[[], object], seconds: float) -> Finding | None:
    def ring(number: int, frame: FrameType | None) -> None:
        raise _Hang("".join(traceback.format_stack(frame)[-6:]))

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        status = case()
        return None if status in (None, 0, 2) else Finding(f"status {status}", f"the command returned {status!r}")
    except SigeError:
        return None
    except SystemExit as stopped:
        return None if stopped.code in (0, 2) else Finding(f"status {stopped.code}", "".join(traceback.format_exc()))
    except KeyboardInterrupt:
        raise
    except _Hang as hang:
        return Finding("hang in " + _place(hang), str(hang))
    except BaseException as error:
        return Finding(f"{type(error).__name__} in {_place(error)}", traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _place(error: BaseException) -> str:
    """The last line of our own code on the way to the error."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if re.search(r"/(sige|sdxl)/", frame.filename)]
    if not ours:
        return "a library"
    return f"{'/'.join(Path(ours[-1].filename).parts[-3:])}:{ours[-1].lineno}"


@contextlib.contextmanager
def _printed() -> Iterator[list[Any]]:
    """Inside, what is printed goes into two buffers that are as strict as a terminal's."""
    streams: list[Any] = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace")]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        yield streams


def _unfit(streams: list[Any]) -> Finding | None:
    """What a terminal should not get."""
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        stream.flush()
        text = stream.buffer.getvalue().decode("utf-8", "surrogateescape")
        if match := _CONTROL.search(text):
            return Finding(f"control character on {name}", text[max(match.start() - 200, 0) : match.end() + 200])
        if (longest := max(map(len, text.split("\n")))) > MOST_LINE and "usage:" not in text:
            return Finding(f"long line on {name}", f"{longest} characters: {text[:500]}")
    return None


def _reset_peak() -> bool:
    """Sets the peak of the process's memory to what it has now; some containers do not let it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: resets VmHWM
    except OSError:
        return False
    return True


def _resident(name: str) -> int:
    """A line of the process's status, in bytes."""
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024
