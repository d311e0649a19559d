"""Multiply-accumulates of a pass, counted while it runs, on real tensors or on the meta device, where nothing runs.

Two conventions, always both. *published*: the products of convolutions and linear layers, one per element of every
norm's output, one per element of every multiplication, a SiLU being one; attention matmuls are left out, as they were
in the ancestor's tables. *all*: the same and the attention matmuls. Statistics of groups that a packed pass updates
count one per element read, in both. What only moves or adds counts nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sige.errors import SigeError
from sige.profiling.counting import ATTENTION, COUNTED, Counts, Kind, attention

__all__ = ["MacCount", "ProfilingError", "count_macs"]

COMPOSITE = "CompositeImplicitAutograd"  # the dispatch key of ops that are made of others


class ProfilingError(SigeError, ValueError):
    """A model, a size or an option that cannot be profiled."""


@dataclass
class MacCount:
    """The multiply-accumulates of one pass, by what they are and by the module whose weights they go with."""

    counts: Counter[tuple[Kind, str]] = field(default_factory=Counter)

    @property
    def all(self) -> int:
        """Everything, attention matmuls included."""
        return sum(self.counts.values())

    @property
    def published(self) -> int:
        """Everything but attention matmuls."""
        return sum(macs for (kind, _), macs in self.counts.items() if kind not in ATTENTION)

    def kinds(self) -> dict[Kind, int]:
        """By kind, the largest first."""
        total: Counter[Kind] = Counter()
        for (kind, _), macs in self.counts.items():
            total[kind] += macs
        return dict(total.most_common())

    def modules(self, depth: int = 1) -> dict[str, int]:
        """By module, in the order of the pass. A number belongs to the name before it: `up_blocks.0` is depth 1."""
        total: Counter[str] = Counter()
        for (_, path), macs in self.counts.items():
            total[_prefix(path, depth)] += macs
        return dict(total)


def _prefix(path: str, depth: int) -> str:
    taken: list[str] = []
    names = 0
    for part in path.split("."):
        names += not part.isdigit()
        if names > depth:
            break
        taken.append(part)
    return ".".join(taken)


@contextmanager
def count_macs(model: nn.Module) -> Iterator[MacCount]:
    """Counts what runs inside, and attributes it to the modules of `model`.

    >>> layer = nn.Linear(3, 5)
    >>> with count_macs(layer) as macs:
    ...     _ = layer(torch.ones(2, 3))
    >>> macs.published
    30
    """
    counter = _Counter(model)
    with _FusedAttention(counter), counter:
        yield counter.count
    counter.settle()


class _Counter(TorchDispatchMode):
    """Looks every op up in `COUNTED`.

    An op belongs to the module whose parameter it reads (packed layers read the weights of diffusers' modules, so
    dense and packed are told apart alike); one without, to the module of the op before it; statistics without a
    parameter, which come before their norm, to the module of the op after.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.count = MacCount()
        self.paused = False
        self._owners = {
            parameter.untyped_storage()._cdata: path
            for path, module in model.named_modules()
            for parameter in module.parameters(recurse=False)
        }
        self._convolutions = {path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)}
        self._owner = ""
        self._waiting: Counts = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        if name not in COUNTED:
            if name.startswith("sige::"):
                raise ProfilingError(f"{name}: no rule says how to count it: add one to profiling.counting.COUNTED")
            if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), COMPOSITE):
                with self:  # in inference mode composite ops arrive whole
                    return func._op_dk(getattr(torch._C.DispatchKey, COMPOSITE), *args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        if not self.paused:
            weighted = self._find_owner(args)
            if name in COUNTED:
                self.add(COUNTED[name](args, out), weighted)
        return out

    def add(self, counts: Counts, weighted: bool = False) -> None:
        """Adds what one op did, and did with a parameter or without."""
        for kind, macs in counts:
            if kind == "statistics" and not weighted:
                self._waiting.append((kind, macs))
                continue
            self.count.counts[self._precisely(kind, weighted), self._owner] += macs

    def _precisely(self, kind: Kind, weighted: bool) -> Kind:
        if kind == "self-attention" and weighted:  # bmm by a weight: a linear layer whose input is not contiguous
            kind = "linear"
        if kind == "self-attention" and "attn2" in self._owner.split("."):
            return "cross-attention"
        if kind == "linear" and self._owner in self._convolutions:  # a 1x1 convolution, on rows
            return "convolution"
        return kind

    def settle(self) -> None:
        """Gives what waits for its module to the one that is current."""
        for kind, macs in self._waiting:
            self.count.counts[kind, self._owner] += macs
        self._waiting.clear()

    def _find_owner(self, args: Sequence[Any]) -> bool:
        for arg in args:
            if isinstance(arg, Tensor) and (owner := self._owners.get(arg.untyped_storage()._cdata)) is not None:
                self._owner = owner
                self.settle()
                return True
        return False


class _FusedAttention(TorchFunctionMode):
    """Counts scaled_dot_product_attention as one thing, whatever the device makes of it."""

    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        self.counter.add(attention((named["query"], named["key"], named["value"]), None))
        self.counter.paused = True
        try:
            return func(*args, **kwargs)
        finally:
            self.counter.paused = False
