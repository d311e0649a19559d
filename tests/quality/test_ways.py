"""The names of rows, and how they are chosen."""

from __future__ import annotations

import doctest
import importlib
from dataclasses import asdict

import pytest

from benchmarks.quality.rivals import rivals
from benchmarks.quality.ways import Sparse, catalogue, default_way, name_of, policy_of, select
from sdxl.errors import InputError
from sige import Temporal


def test_a_name_says_the_whole_configuration() -> None:
    for way in catalogue(30):
        if isinstance(way, Sparse):
            found = policy_of(way.name)
            assert found is not None and asdict(found) == asdict(way.policy) and type(found) is type(way.policy)
            assert name_of(way.policy) == way.name
    assert name_of(Temporal("plain", dense_steps=(0, 3, 9), dilation=0)) == "temporal-0,3,9 rising d0"
    assert policy_of("temporal-0,3,9 rising d0") == Temporal("plain", dense_steps=(0, 3, 9), dilation=0)
    assert policy_of("other seed") is policy_of("temporal-7") is None


def test_the_catalogue_is_the_full_product_and_more() -> None:
    names = [way.name for way in catalogue(30)]
    assert len(set(names)) == len(names) == 41 + 3 + len(rivals())
    assert sum(name.startswith("temporal") and name.endswith(" d0") for name in names) == 28 + 1
    assert [name.split()[-1] for name in names[2:5]] == ["quality", "fast", "fastest"]
    assert names[0] == default_way(30).name == "temporal-7 growing rising d0 balanced"
    assert {"other seed", "crop and stitch", "lockstep d0", "lockstep d4", "lockstep d1 frozen"} <= set(names)


def test_rows_are_chosen_by_pattern_or_by_a_full_name() -> None:
    def chosen(*patterns: str) -> list[str]:
        return [way.name for way in select(patterns, 30)]

    assert chosen("lockstep*", "lockstep d1") == [f"lockstep {end}" for end in ("d1", "d0", "d2", "d4", "d1 frozen")]
    assert len(chosen("temporal-7 *")) == 10 and len(chosen("*")) == 44 + len(rivals())
    assert chosen("temporal-30 growing none d1") == ["temporal-30 growing none d1"]
    with pytest.raises(InputError, match="'temporal-7' fits no row"):
        chosen("temporal-7")


@pytest.mark.parametrize("name", ["crop", "edits", "metrics", "pictures", "shapes", "ways"])
def test_the_examples_are_right(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"benchmarks.quality.{name}"))
    assert found.failed == 0 and found.attempted
