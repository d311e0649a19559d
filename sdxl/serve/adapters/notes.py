"""Notes: what a client has asked for without effect."""

from __future__ import annotations

import logging
from functools import lru_cache

__all__ = ["warn"]

logger = logging.getLogger(__name__)


@lru_cache(maxsize=100)
def warn(note: str) -> None:
    """Logs a note, each text once: clients send the same fields every time."""
    logger.warning("%s", note)
