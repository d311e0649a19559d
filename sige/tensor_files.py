"""A limit for safetensors headers, checked before one is parsed: JSON takes twenty times its length in memory."""

from __future__ import annotations

from pathlib import Path

__all__ = ["LENGTH_BYTES", "MAX_HEADER_BYTES", "check_header_length"]

LENGTH_BYTES = 8  # at the beginning of a file: the length of its header, little-endian
MAX_HEADER_BYTES = 10_000_000  # SDXL has 330,000


def check_header_length(path: Path) -> None:
    """Raises `ValueError` for a file whose header is longer than that of any real one."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes, expected at most {MAX_HEADER_BYTES:,}")
