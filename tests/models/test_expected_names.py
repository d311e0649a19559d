"""A component's first pass over a region: what its passes over other regions read is made at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
from torch import Tensor

import sige
from sige.packed import index_tensors
from sige.packed.index_tensors import IndexName, IndexTensors
from sige.region import Region
from tests.models.state import fresh
from tests.models.tiny import every_case


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[IndexName]]:
    """The names that regions are asked for, one list for each time."""
    seen: list[list[IndexName]] = []
    get = IndexTensors.get

    def noted(tensors: IndexTensors, region: Region, names: Iterable[IndexName]) -> list[Tensor]:
        seen.append(list(names))
        return get(tensors, region, seen[-1])

    monkeypatch.setattr(IndexTensors, "get", noted)
    return seen


@every_case
def test_the_second_region_is_asked_once_for_what_the_first_was_asked_for(
    case: str, asked: list[list[IndexName]]
) -> None:
    made = fresh(case)
    with sige.enable(made.model) as handle:
        with handle.record():
            made.call(made.input(1))
        for top in (2, 3):
            with handle.edit(made.rectangle(top, 3, 4, 3)):
                made.call(made.input(2))
                first, again = list(asked), made.call(made.input(3))
            assert again.isfinite().all() and asked == first  # the second pass asks for nothing
            names = [name for one in asked for name in one]
            assert len(names) == len(set(names)) > 5
            assert (len(asked) == 1) == (top == 3)
            asked.clear()


def test_a_region_keeps_its_index_tensors_from_edit_to_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fresh("sdxl-base")
    region = made.rectangle(2, 3, 4, 3)
    kinds: list[str] = []
    for kind, make in index_tensors._MAKERS.items():
        noted = partial(_noted, kinds, kind, make)
        monkeypatch.setitem(index_tensors._MAKERS, kind, noted)
    with sige.enable(made.model) as handle:
        with handle.record():
            made.call(made.input(1))
        for edit in range(3):
            with handle.edit(region):
                made.call(made.input(2))
            assert (len(kinds) > 5) == (edit == 0)
            kinds.clear()


def _noted(
    kinds: list[str], kind: str, make: Callable[[Region, IndexName], Any], region: Region, name: IndexName
) -> Any:
    kinds.append(kind)
    return make(region, name)
