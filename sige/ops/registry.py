"""Registration of ops: each schema once, then on each device the native kernels, or the reference without them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sige.ops import checks, native

__all__ = ["OPS", "IndexRange", "Op", "activate", "checked_reference", "register"]


@dataclass(frozen=True)
class IndexRange:
    """The entries that an index argument may hold: [low, high)."""

    name: str
    index: Tensor
    low: int
    high: int


@dataclass(frozen=True)
class Op:
    """One op of the namespace `sige`: everything but its kernels."""

    schema: str
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    index_range: Callable[..., IndexRange | None] | None

    @property
    def name(self) -> str:
        return self.schema.split("(")[0]


OPS: dict[str, Op] = {}

_library = torch.library.Library("sige", "DEF")


def register(
    schema: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    index_range: Callable[..., IndexRange | None] | None = None,
) -> None:
    """Defines the op. `fake` checks shapes and dtypes; `index_range` gives the entries that an index may hold."""
    op = Op(schema, reference, fake, index_range)
    OPS[op.name] = op
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"sige::{op.name}", fake, lib=_library)


def activate() -> None:
    """Loads the native libraries, and registers the reference on devices without one. `sige.ops` calls it once."""
    for backend in native.load():
        if not backend.native:
            for op in OPS.values():
                _library.impl(op.name, checked_reference(op, backend), backend.device)


def checked_reference(op: Op, backend: native.Backend) -> Callable[..., Any]:
    """The reference with the checks of a native op before it; its first call warns that it is slow."""

    @functools.wraps(op.reference)
    def run(*args: Any) -> Any:
        _warn_once(backend.device, backend.reason)
        op.fake(*args)  # for its checks: nobody writes the memory that it allocates
        if op.index_range and (range_ := op.index_range(*args)):
            checks.check_index(op.name, range_.name, range_.index, range_.low, range_.high)
        return op.reference(*args)

    return run


@functools.cache
def _warn_once(device: str, reason: str) -> None:
    if "SIGE_BACKEND" not in reason:
        warnings.warn(f"sige runs its slow reference ops on {device}: {reason}", RuntimeWarning, stacklevel=4)
