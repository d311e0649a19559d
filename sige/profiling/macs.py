"""Multiply-accumulates of a pass, counted while it runs: on real tensors, or on the meta device without any arithmetic.

Every pass is counted by two conventions. *published* counts the products of convolutions and linear layers, one for
each element of a norm's output, and one for each element of a multiplication (a SiLU is one); it leaves out the matmuls
of attention, as the ancestor's tables do. *all* adds those matmuls. In both, an update of group statistics counts one
for each element that it reads, and ops that only move or add count nothing.
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

COMPOSITE = "CompositeImplicitAutograd"  # the dispatch key of ops that consist of other ops


class ProfilingError(SigeError, ValueError):
    """Raised for a model, a size or an option that cannot be profiled."""


@dataclass
class MacCount:
    """The multiply-accumulates of one pass, by kind and by the module whose weights they use."""

    counts: Counter[tuple[Kind, str]] = field(default_factory=Counter)

    @property
    def all(self) -> int:
        """All multiply-accumulates, the matmuls of attention included."""
        return sum(self.counts.values())

    @property
    def published(self) -> int:
        """All multiply-accumulates but the matmuls of attention."""
        return sum(macs for (kind, _), macs in self.counts.items() if kind not in ATTENTION)

    def kinds(self) -> dict[Kind, int]:
        """Multiply-accumulates by kind, the largest first."""
        total: Counter[Kind] = Counter()
        for (kind, _), macs in self.counts.items():
            total[kind] += macs
        return dict(total.most_common())

    def modules(self, depth: int = 1) -> dict[str, int]:
        """Multiply-accumulates by the first `depth` names of the module, in the order of the pass.

        A number belongs to the name before it: `up_blocks.0` is one name.
        """
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
    """Counts the ops that run inside the block, and gives each to a module of `model`.

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
    """Counts every op by its rule in `COUNTED`, and gives the count to the module that owns the op.

    An op that reads a parameter belongs to the module of that parameter. Packed layers read the weights of diffusers'
    modules, so this works for dense and packed passes alike. An op without a parameter belongs to the module of the op
    before it. Group statistics without a parameter are computed before their norm, so they wait for the next op that
    has one and belong to its module.
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
                with self:  # inference mode passes composite ops on as one: count the ops that they consist of
                    return func._op_dk(getattr(torch._C.DispatchKey, COMPOSITE), *args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        if not self.paused:
            for part, given in _parts(name, args):
                weighted = self._find_owner(given)
                if part in COUNTED:
                    self.add(COUNTED[part](given, out), weighted)
        return out

    def add(self, counts: Counts, weighted: bool = False) -> None:
        """Adds the counts of one op; `weighted` says whether the op reads a parameter."""
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
        """Gives the statistics that wait to the current module."""
        for kind, macs in self._waiting:
            self.count.counts[kind, self._owner] += macs
        self._waiting.clear()

    def _find_owner(self, args: Sequence[Any]) -> bool:
        """Makes the module that owns a parameter among `args` the current one; says whether there is such a module."""
        for arg in args:
            if isinstance(arg, Tensor) and (owner := self._owners.get(arg.untyped_storage()._cdata)) is not None:
                self._owner = owner
                self.settle()
                return True
        return False


def _parts(name: str, args: tuple[Any, ...]) -> list[tuple[str, tuple[Any, ...]]]:
    """The ops that an op stands for, with their arguments: some are a linear layer of each of their weights."""
    if name not in ("sige::linear_stack", "sige::time_table"):
        return [(name, args)]
    return [("aten::linear", (args[0], weight)) for weight in args[1]]


class _FusedAttention(TorchFunctionMode):
    """Counts a call of scaled_dot_product_attention as one op, and hides from the counter the ops that it runs as."""

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
