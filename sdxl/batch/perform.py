"""perform: one row in a worker, with every way in which it can end. What a worker is, processes and Ray decide."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from sdxl.batch.ledger import Ledger, State
from sdxl.batch.row import Row
from sdxl.errors import Cancelled, is_out_of_memory
from sige.errors import OutputError, SigeError

__all__ = ["GoesOn", "Make", "Outcome", "Work", "perform"]

logger = logging.getLogger(__name__)

GoesOn = Callable[[], bool]  # asked after each step; False: the batch stops
Work = Callable[[Row, Path, GoesOn], dict[str, Any]]  # writes the row's picture, whole or not at all; its figures
Make = Callable[[int], Work]  # called once in each worker, with its lane: loads what all rows need


@dataclass(frozen=True)
class Outcome:
    """How a row ended in a worker that lives. LEFT: it did not end, and another worker can begin it again."""

    id: str
    state: State
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    stops: bool = False  # nobody can write any more: the batch ends


def perform(row: Row, work: Work, ledger: Ledger, goes_on: GoesOn) -> Outcome:
    """Does a row's work. Errors of the row are noted in the ledger; one that breaks the worker is raised."""
    began = perf_counter()
    target = ledger.picture(row.id)
    if target.exists():  # a worker made it, and died before it could say so
        return Outcome(row.id, State.DONE)
    try:
        figures = work(row, target, goes_on)
    except Cancelled:
        return Outcome(row.id, State.LEFT)
    except OutputError as error:  # a full disk is no fault of the row
        return Outcome(row.id, State.LEFT, error=str(error), stops=True)
    except SigeError as error:
        return _failed(row, ledger, str(error), {"kind": type(error).__name__, "field": getattr(error, "field", None)})
    except Exception as error:
        if _is_device_lost(error):
            raise  # every later row would fail here, so this worker ends and counts as dead
        if is_out_of_memory(error):
            return _failed(row, ledger, "not enough memory: take a smaller picture, or only_masked", {"kind": "memory"})
        logger.warning("%s failed by a fault of the program: %s", row.id, error)
        said = {"kind": type(error).__name__, "traceback": traceback.format_exc()}
        return _failed(row, ledger, f"{type(error).__name__}: {error}", said)
    return Outcome(row.id, State.DONE, perf_counter() - began, figures)


def _failed(row: Row, ledger: Ledger, error: str, more: dict[str, Any]) -> Outcome:
    try:
        ledger.fail(row, error, **more)
    except OutputError as full:
        return Outcome(row.id, State.LEFT, error=str(full), stops=True)
    return Outcome(row.id, State.FAILED, error=error)


def _is_device_lost(error: Exception) -> bool:
    """Says whether the device answers no more: after such an error CUDA fails at every call of the process."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return not is_out_of_memory(error) and ("AcceleratorError" in names or "CUDA error" in str(error))
