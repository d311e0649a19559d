"""Reads and writes the tensors of safetensors files one at a time, without a memory map and without a second copy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from sdxl.checkpoint.header import ITEM_BYTES, LENGTH_BYTES, METADATA, Header
from sdxl.errors import CheckpointError

__all__ = ["DTYPES", "NAMES", "TensorReader", "Written", "file_bytes", "write_tensors"]

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class TensorReader:
    """Reads tensors of a file whose header has been checked; a context manager.

    >>> with TensorReader(read_header(folder / "tiny.safetensors")) as reader:
    ...     reader.read("x").sum()
    tensor(15.)
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self._file: BinaryIO = header.path.open("rb", buffering=0)

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, name: str) -> Tensor:
        """The tensor with the dtype and shape of the file, in memory of its own."""
        stored = self.header.tensors[name]
        data = self.read_bytes(name, 0, stored.bytes)
        return data.view(DTYPES[stored.dtype]).reshape(stored.shape)

    def read_bytes(self, name: str, start: int, count: int) -> Tensor:  # uint8 [count]
        """A piece of the tensor's bytes, from `start` on."""
        data = torch.empty(count, dtype=torch.uint8)
        view = data.numpy().data
        self._file.seek(self.header.tensors[name].start + start)
        done = 0
        while done < count:
            got = self._file.readinto(view[done:])  # type: ignore[attr-defined]
            if not got:
                self.header.fault(f"ends inside {name!r}: it was changed or truncated while it was read")
            done += got
        return data


@dataclass(frozen=True)
class Written:
    """One tensor to write; `write_tensors` asks `pieces` for its values when it gets to this tensor."""

    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Tensor]]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def write_tensors(
    path: Path,
    tensors: Mapping[str, Written],
    metadata: Mapping[str, str],
    advance: Callable[[int], object] = lambda count: None,
) -> None:
    """Writes a whole file with one piece in memory at a time; calls `advance` with the bytes that it has written."""
    tensors = _aligned(tensors)
    with path.open("wb", buffering=0) as file:
        _write_all(file, memoryview(_header_bytes(tensors, metadata)))
        for name, tensor in tensors.items():
            written = 0
            for piece in tensor.pieces():
                data = piece.detach().contiguous().reshape(-1).view(torch.uint8)
                _write_all(file, data.numpy().data)
                written += data.numel()
                advance(data.numel())
            if written != tensor.bytes:
                raise CheckpointError(f"{path}: {name}: got {written} bytes to write, expected {tensor.bytes}")


def file_bytes(tensors: Mapping[str, Written], metadata: Mapping[str, str]) -> int:
    """The size of the file that `write_tensors` writes."""
    return len(_header_bytes(_aligned(tensors), metadata)) + sum(tensor.bytes for tensor in tensors.values())


def _aligned(tensors: Mapping[str, Written]) -> dict[str, Written]:
    """The tensors with the widest items first, so that each starts at a multiple of its item size, as mapping needs."""
    return dict(sorted(tensors.items(), key=lambda item: -ITEM_BYTES[item[1].dtype]))


def _header_bytes(tensors: Mapping[str, Written], metadata: Mapping[str, str]) -> bytes:
    content: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.bytes
        content[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _write_all(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]
