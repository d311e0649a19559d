"""Graphs without a GPU: an emulator captures them, and layers run with their padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from sige.packed.features import PackedPass
from sige.programs import Programs
from sige.programs.replay import Body

__all__ = ["Emulator", "by_padded_layers"]


class Emulator:
    """Captures as CUDA does, as far as a CPU can: the same lines run again, and results are written where they were."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, body: Body) -> tuple[list[Tensor], Callable[[], None]]:
        results = body()
        self.captured += 1

        def again() -> None:
            self.replayed += 1
            for old, new in zip(results, body(), strict=True):
                old.copy_(new)

        return results, again


def by_padded_layers(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Tensor]) -> Tensor:
    """The result layer by layer, with the padding that graphs have: products of other sizes may round otherwise."""

    def layers(self: Programs, packed: Any, module: Any, arguments: Any, packed_pass: PackedPass) -> Tensor:
        return packed(arguments, replace(packed_pass, layout=packed_pass.layout.padded))  # type: ignore[no-any-return]

    with monkeypatch.context() as changed:
        changed.setattr(Programs, "run", layers)
        return run()
