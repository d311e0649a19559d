"""The index tensors of a region on one device: made once, kept as long as the region, moved in few copies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from sige.errors import GeometryError
from sige.geometry import GatherMap, Geometry, gather_map, row_map
from sige.packed.buckets import padded
from sige.positions import Int32Array
from sige.region import Region
from sige.sizes import Size

__all__ = ["IndexName", "IndexTensors", "index_tensors", "upload"]

_ALIGNED = 4  # elements: each tensor of an upload begins at a multiple of 16 bytes
_LOCK = threading.Lock()  # held while a region's tables are looked up


@dataclass(frozen=True)
class IndexName:
    """The name of an index tensor, which is the same for all regions."""

    kind: str  # a key of _MAKERS
    size: Size  # of the level
    geometry: Geometry | None = None  # of the layer that reads through it
    padded: bool = False  # to a length of the grid, for graphs (buckets.py)


@dataclass(eq=False)
class IndexTensors:
    """The index tensors of one region on one device. Several threads may ask for them.

    It must not refer to the region: it lives as long as the region does.
    """

    device: torch.device
    _tensors: dict[IndexName, Tensor] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _uploads: list[tuple[Any, Any, Tensor]] = field(default_factory=list)  # CUDA: stream, event, what was uploaded

    def get(self, region: Region, names: Iterable[IndexName]) -> list[Tensor]:
        """The tensors of these names; those that are missing are made, and moved to the device in one copy."""
        names = list(names)
        with self._lock:
            missing = [name for name in dict.fromkeys(names) if name not in self._tensors]
            if missing:
                made = self._moved([_made(region, name) for name in missing])
                self._tensors.update(zip(missing, made, strict=True))
            self._join()
            return [self._tensors[name] for name in names]

    def _moved(self, arrays: list[Int32Array]) -> list[Tensor]:
        if self.device.type == "cpu":
            return [_shared(array) for array in arrays]
        with torch.inference_mode(False):
            tensors = upload(arrays, self.device)
        if self.device.type == "cuda" and type(tensors[0]) is Tensor:  # else fake ones, which no stream copies
            stream = torch.cuda.current_stream(self.device)
            self._uploads.append((stream, stream.record_event(), tensors[0]))
        return tensors

    def _join(self) -> None:
        """Lets the current stream wait for uploads on others, whose memory then stays until this stream has read it."""
        if self._uploads:
            current = torch.cuda.current_stream(self.device)
            for stream, event, tensor in self._uploads:
                if stream != current:
                    current.wait_event(event)
                    tensor.record_stream(current)


_kept: WeakKeyDictionary[Region, dict[torch.device, IndexTensors]] = WeakKeyDictionary()


def index_tensors(region: Region, device: torch.device) -> IndexTensors:
    """The region's index tensors on the device: always the same object, which goes with the region."""
    if type(torch.empty(0)) is not Tensor:
        return IndexTensors(device)  # inside a mode of fake tensors, which nobody may read outside of it
    with _LOCK:
        return _kept.setdefault(region, {}).setdefault(device, IndexTensors(device))


def upload(arrays: Sequence[Int32Array], device: torch.device) -> list[Tensor]:
    """The arrays on the device, in their shapes: views of one flat tensor, which is moved in one copy.

    To CUDA the copy goes from pinned memory, and the host does not wait for it.

    >>> [tensor.tolist() for tensor in upload([np.arange(2, dtype=np.int32)] * 2, torch.device("cpu"))]
    [[0, 1], [0, 1]]
    """
    *starts, end = accumulate((-(-array.size // _ALIGNED) * _ALIGNED for array in arrays), initial=0)
    flat, values = _host(end, device)
    for start, array in zip(starts, arrays, strict=True):
        values[start : start + array.size] = array.ravel()
    moved = flat.to(device, non_blocking=True)
    return [moved[start : start + array.size].view(array.shape) for start, array in zip(starts, arrays, strict=True)]


def _host(count: int, device: torch.device) -> tuple[Tensor, Int32Array]:
    """A new tensor [count] from which a copy to the device is fast, and the same memory as an array."""
    if device.type == "cuda":
        pinned = torch.empty(count, dtype=torch.int32, pin_memory=True)
        if type(pinned) is Tensor:  # a fake one has no memory
            return pinned, pinned.numpy()
    values = np.zeros(count, dtype=np.int32)
    return torch.from_numpy(values), values


class _Writable:
    """Says that an array may be written to, which torch wants of memory that it shares; nothing writes to it."""

    def __init__(self, array: Int32Array) -> None:
        self.array = array  # keeps the memory
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def _shared(array: Int32Array) -> Tensor:
    """The array as a tensor, in the same memory."""
    with torch.inference_mode(False):
        return torch.from_numpy(np.asarray(_Writable(array)))


def _gathered(region: Region, name: IndexName) -> GatherMap:
    if name.geometry is None:
        raise GeometryError(f"{name.kind}: the geometry of the layer is missing")
    return gather_map(region, name.geometry, *name.size)


def _count(count: int) -> Int32Array:  # [count]
    return np.arange(count, dtype=np.int32)


def _made(region: Region, name: IndexName) -> Int32Array:
    array = _MAKERS[name.kind](region, name)
    return padded(region, name.kind, name.size, array) if name.padded else array


_MAKERS: dict[str, Callable[[Region, IndexName], Int32Array]] = {
    "active": lambda region, name: region.index(*name.size),
    "positions": lambda region, name: region.index(*name.size),
    "inactive": lambda region, name: np.flatnonzero(~region.active(*name.size)).astype(np.int32),
    "map": lambda region, name: _gathered(region, name).index,  # [N_out, T]
    "halo": lambda region, name: _gathered(region, name).halo,  # [M]
    "keys": lambda region, name: row_map(region, *name.size),
    "compact": lambda region, name: _count(name.size[0] * name.size[1]),
    "numbers": lambda region, name: _count(name.size[0]),
    "identity": lambda region, name: _count(len(region.index(*name.size))).reshape(-1, 1),
}
