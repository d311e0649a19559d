"""Sizes: height and width, in this order, as arrays and flags have them; and bytes in words."""

from __future__ import annotations

import re

from sige.errors import ConfigError

__all__ = ["Size", "parse_bytes", "size_text"]

Size = tuple[int, int]  # height, width

_BINARY = "KMGT"  # each 1024 of the one before


def size_text(size: Size) -> str:
    """The size as flags write it.

    >>> size_text((512, 1024))
    '512x1024'
    """
    return f"{size[0]}x{size[1]}"


def parse_bytes(size: int | str) -> int:
    """A number of bytes, given as such or in words.

    >>> parse_bytes("8GiB"), parse_bytes("1.5 MB"), parse_bytes("100")
    (8589934592, 1500000, 100)
    """
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)(IB|B|)\s*", str(size).upper())
    if isinstance(size, bool) or not match:
        raise ConfigError(f"budget: got {str(size)[:40]!r}, expected a number of bytes, as 8GiB or 500MB")
    number, prefix, unit = match.groups()
    base = 1000 if unit == "B" else 1024
    return int(float(number) * base ** (_BINARY.index(prefix) + 1 if prefix else 0))
