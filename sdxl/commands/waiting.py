"""Waiting of the process: a thread that waits for others soon gives its core away, for another program may need it."""

from __future__ import annotations

import os
import sys

__all__ = ["wait_shortly"]

_SPINS = "30000"  # looks at what it waits for: longer than most ops are apart; libgomp's own number is 300000


def wait_shortly() -> bool:
    """Makes threads that wait for each other sleep soon; says whether it did. For commands, before torch is imported.

    After each op a thread of torch looks for the next one for milliseconds, and only then sleeps. Where another program
    has one of the cores, a thread that looks takes time from the one that it waits for: on two cores a pass took 50
    times as long, and 13 times with this setting. Whoever has set OMP_WAIT_POLICY or GOMP_SPINCOUNT keeps what was set.
    """
    if "torch" in sys.modules or os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        return False
    os.environ["GOMP_SPINCOUNT"] = _SPINS  # torch's libgomp reads it when it is loaded
    return True
