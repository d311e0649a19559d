"""Taps: one permanent hook on each probed module, which keeps the probe's rows while the component records.

    idle         the hook looks at one switch, and does nothing
    recording    it keeps rows and sums on the tap itself; `Taps.collect` takes them all after the pass

torch.compile follows the hook: rows and sums are then outputs of the graph, and keeping them breaks no graph. Each tap
keeps its own, and every tap hangs under the same key, so that the compiled code of a block serves each block like it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sige.ops import group_stats
from sige.recordings.probe import Probe
from sige.recordings.recording import ComponentRecording

__all__ = ["Tap", "Taps", "is_tap"]

KEY = -1  # of the hook among a module's hooks; torch numbers its own from 0 up


class Switch:
    """Says to all taps of a component whether they keep what they see."""

    def __init__(self) -> None:
        self.on = False


class Tap:
    """The hook of one probe."""

    def __init__(self, probe: Probe, switch: Switch) -> None:
        self.groups, self.restore, self.switch = probe.groups, probe.restore, switch
        self.rows: Tensor | None = None  # [B, M, C], of the pass that records
        self.sums: Tensor | None = None  # fp64 [B, G, 2]

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the module: keeps its input."""
        if self.switch.on:
            self._keep(args[0] if args else kwargs["hidden_states"])

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """After the module: keeps its output."""
        if self.switch.on:
            self._keep(output)

    def _keep(self, value: Tensor) -> None:  # [B, C, H, W] or [B, M, C]
        rows = _as_rows(value.detach())
        if self.restore is not None:
            rows = self.restore(rows)
        self.rows = rows
        if self.groups:
            self.sums = group_stats(rows, self.groups)


class Taps:
    """The taps of one component, by the keys of their probes."""

    def __init__(self) -> None:
        self._switch = Switch()
        self._taps: dict[str, Tap] = {}
        self._modules: list[nn.Module] = []

    def hang(self, probes: Iterable[Probe]) -> None:
        """Hangs a tap on the module of each probe, in place of those before."""
        self.remove()
        for probe in probes:
            tap = self._taps[probe.key] = Tap(probe, self._switch)
            self._modules.append(probe.module)
            if probe.of == "output":
                probe.module._forward_hooks[KEY] = tap.after
            else:
                probe.module._forward_pre_hooks[KEY] = tap.before
                probe.module._forward_pre_hooks_with_kwargs[KEY] = True

    def remove(self) -> None:
        """Takes every tap away."""
        for module in self._modules:
            _take(module)
        self._modules.clear()
        self._taps.clear()

    def remove_from_copies(self, copies: Mapping[int, Any]) -> None:  # by the id of the original
        """Takes the taps away from copies of the modules, which nobody has enabled."""
        for module in self._modules:
            if (copy := copies.get(id(module))) is not None:
                _take(copy)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Inside, the taps keep what they see; afterwards they forget it."""
        self._switch.on = True
        try:
            yield
        finally:
            self._switch.on = False
            for tap in self._taps.values():
                tap.rows = tap.sums = None

    def collect(self) -> ComponentRecording:
        """What the taps have kept of this pass; a layer that did not run has kept nothing.

        Compiled code may leave rows as a slice of a concatenation, because torch keeps no more than the order of their
        strides. Packed ops read contiguous rows, so such a slice is copied.
        """
        rows = {key: tap.rows.contiguous() for key, tap in self._taps.items() if tap.rows is not None}
        return ComponentRecording(rows, {key: tap.sums for key, tap in self._taps.items() if tap.sums is not None})


def _take(module: nn.Module) -> None:
    for hooks in (module._forward_hooks, module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs):
        hooks.pop(KEY, None)


def is_tap(hook: object) -> bool:
    """Says whether the hook is one of these."""
    return isinstance(getattr(hook, "__self__", None), Tap)


def _as_rows(value: Tensor) -> Tensor:  # [B, C, H, W] or [B, M, C] -> [B, M, C]
    """A view where the tensor is channels-last already, a copy where not."""
    if value.dim() == 4:
        value = value.permute(0, 2, 3, 1).flatten(1, 2)
    return value.contiguous()
