"""Checks that files hold exactly the weights that the models need. It reads the headers, not the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sdxl.checkpoint.header import Stored
from sdxl.checkpoint.keys import Entry, is_ignored
from sdxl.checkpoint.sources import Source
from sdxl.checkpoint.tensors import DTYPES
from sdxl.errors import CheckpointError

__all__ = ["check", "common_dtype"]

SHOWN = 3


def check(path: Path, sources: Sequence[Source], kind: str) -> None:
    """Raises an error that lists missing and unexpected keys, wrong shapes and wrong dtypes: the first few of each."""
    faults = []
    for header, entries in sources:
        needed = {entry.file_key: entry for entry in entries}
        missing = [name for name in needed if name not in header.tensors]
        unexpected = [name for name in header.tensors if name not in needed and not is_ignored(name)]
        found = {name: (header.tensors[name], entry) for name, entry in needed.items() if name in header.tensors}
        shapes = [_shape_fault(name, *pair) for name, pair in found.items() if not pair[1].accepts(pair[0].shape)]
        dtypes = [f"{name} is {pair[0].dtype}" for name, pair in found.items() if not pair[0].is_float]
        faults += [
            _listed(f"{len(missing)} of {len(needed)} keys missing", missing),
            _listed(f"{len(unexpected)} unexpected", unexpected),
            _listed(f"{len(shapes)} of the wrong shape", shapes),
            _listed(f"{len(dtypes)} of the wrong dtype (expected float)", dtypes),
        ]
    if faults := [fault for fault in faults if fault]:
        raise CheckpointError(f"{path}: is no whole {kind} checkpoint: {'; '.join(faults)}; take an unmodified file")


def _shape_fault(name: str, stored: Stored, entry: Entry) -> str:
    return f"{name} has {list(stored.shape)}, expected {list(entry.shape)}"


def _listed(title: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    more = f", … and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{title}: {', '.join(items[:SHOWN])}{more}"


def common_dtype(sources: Sequence[Source]) -> torch.dtype:
    """The narrowest dtype that models compute in and that holds every stored weight (fp64 becomes fp32)."""
    stored = {header.tensors[entry.file_key].dtype for header, entries in sources for entry in entries}
    computed = {_computed(DTYPES[name]) for name in stored}
    return computed.pop() if len(computed) == 1 else torch.float32


def _computed(dtype: torch.dtype) -> torch.dtype:
    if dtype.itemsize == 1:
        return torch.float16  # it holds every value of both 8-bit formats
    return torch.float32 if dtype == torch.float64 else dtype
