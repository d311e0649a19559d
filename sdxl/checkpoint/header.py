"""The header of a safetensors file, read strictly: the dtype, shape and place of each tensor, without the weights.

The layout: 8 bytes with the length of a JSON object, little-endian; the object, which names each tensor's dtype, shape
and range of bytes; then the data. Files are not memory-mapped: a file that is truncated under a map kills the process.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from sdxl.errors import CheckpointError, InputError
from sige.tensor_files import LENGTH_BYTES, MAX_HEADER_BYTES

__all__ = ["ITEM_BYTES", "LENGTH_BYTES", "MAX_HEADER_BYTES", "Header", "Stored", "read_header"]

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
MAX_TENSORS = 20_000  # SDXL has 2,515
MAX_DIMENSIONS = 16
METADATA = "__metadata__"


@dataclass(frozen=True)
class Stored:
    """The description of one tensor in the file."""

    dtype: str  # the format's name, a key of ITEM_BYTES
    shape: tuple[int, ...]
    start: int  # from the beginning of the file
    bytes: int

    @property
    def is_float(self) -> bool:
        return "F" in self.dtype


@dataclass(frozen=True)
class Header:
    """The checked content of a header: every range of bytes is inside the file, and no two overlap."""

    path: Path
    tensors: dict[str, Stored]  # in the order of their bytes
    metadata: dict[str, str] = field(default_factory=dict)
    bytes: int = 0  # of the whole file

    def fault(self, text: str) -> NoReturn:
        raise CheckpointError(f"{self.path}: {text}")


class _HeaderError(Exception):
    """A fault of a header; `read_header` makes it a CheckpointError with the file's name."""


def read_header(path: Path | str) -> Header:
    """The checked header of a file; a `CheckpointError` names the file and the fault.

    >>> read_header(folder / "tiny.safetensors").tensors["x"].shape
    (2, 3)
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}, expected a .safetensors file")
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except _HeaderError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _read(path: Path, file: BinaryIO) -> Header:
    size = file.seek(0, 2)
    file.seek(0)
    beginning = file.read(LENGTH_BYTES)
    if len(beginning) < LENGTH_BYTES:
        raise _HeaderError(f"has {size} bytes, too few for a safetensors file; download it again")
    length = int.from_bytes(beginning, "little")
    if length > MAX_HEADER_BYTES and LENGTH_BYTES + length <= size:
        raise _HeaderError(
            f"has a header of {length:,} bytes, expected at most {MAX_HEADER_BYTES:,}: take another file"
        )
    if length > MAX_HEADER_BYTES:
        raise _HeaderError(f"is no safetensors file{_guess(beginning)}")
    if LENGTH_BYTES + length > size:
        raise _HeaderError(
            f"is truncated inside its header: {size} bytes of {LENGTH_BYTES + length}; download it again"
        )
    content = _parse(file.read(length))
    metadata = _metadata(content.pop(METADATA, {}))
    if len(content) > MAX_TENSORS:
        raise _HeaderError(f"has {len(content):,} tensors, expected at most {MAX_TENSORS:,}: take another file")
    first = LENGTH_BYTES + length
    tensors = {name: _entry(name, fields, first) for name, fields in content.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].bytes)))
    _check_ranges(tensors, first, size)
    return Header(path, tensors, metadata, size)


def _guess(beginning: bytes) -> str:
    """The end of a message: it names the format of a file that a user has renamed to .safetensors by mistake."""
    known = {
        b"PK": "a zip or a PyTorch pickle",
        b"\x80": "a pickle",
        b"version ": "a Git LFS pointer",
        b"<": "a web page",
    }
    for prefix, name in known.items():
        if beginning.startswith(prefix):
            return f" but {name}; download the .safetensors file itself"
    return "; download it again"


def _parse(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise _HeaderError("has a header that is not a JSON object; download it again")
    try:
        content: dict[str, Any] = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        _check_text(content)
    except (ValueError, RecursionError) as error:
        raise _HeaderError(f"has a header that is not JSON ({type(error).__name__}); download it again") from None
    return content


def _check_text(content: dict[str, Any]) -> None:
    """Refuses names and metadata with lone surrogates, which JSON can spell and UTF-8 cannot hold."""
    facts = content.get(METADATA)
    for text in (*content, *((*facts, *facts.values()) if isinstance(facts, dict) else ())):
        if isinstance(text, str):
            text.encode()  # raises UnicodeEncodeError, a ValueError


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _HeaderError(f"has the key {key!r} twice in its header")
        content[key] = value
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _metadata(content: Any) -> dict[str, str]:
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise _HeaderError(f"has a {METADATA} that is no mapping of text to text")
    return content


def _entry(name: str, fields: Any, first: int) -> Stored:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise _HeaderError(f"describes {name!r} without exactly dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _HeaderError(f"{name}: has dtype {dtype!r}, expected one of {', '.join(ITEM_BYTES)}")
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise _HeaderError(f"{name}: has shape {_short(shape)}, expected a list of sizes")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _HeaderError(f"{name}: has data_offsets {_short(offsets)}, expected [begin, end]")
    size, needed = offsets[1] - offsets[0], math.prod(shape) * ITEM_BYTES[dtype]
    if size != needed:
        raise _HeaderError(f"{name}: has {size} bytes, expected {_short(needed)} for {dtype} {_short(shape)}")
    return Stored(dtype, tuple(shape), first + offsets[0], size)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_ranges(tensors: dict[str, Stored], first: int, size: int) -> None:
    """Refuses a header unless each tensor begins where the one before it ends, and the file ends with the last one."""
    end = first
    for name, stored in tensors.items():
        if stored.start != end:
            fault = "overlaps the tensor before it" if stored.start < end else "begins after unused bytes"
            raise _HeaderError(f"{name}: {fault} (at {stored.start}, expected {end})")
        end += stored.bytes
    if end > size:
        raise _HeaderError(f"is truncated: {size} bytes of {end}; download it again")
    if end < size:
        raise _HeaderError(f"has {size - end} bytes after its last tensor; download it again")
