"""The ways to make an edit that are compared, each a row of the table, and their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Protocol

from PIL import Image

import sige
from benchmarks.quality.crop import crop_and_stitch, crop_box
from benchmarks.quality.edits import Edit
from benchmarks.quality.work import Work
from sdxl.edits import edit as editing
from sdxl.edits.edit import Sampling
from sdxl.errors import InputError
from sige.schedule import dense_steps

__all__ = ["Crop", "Dense", "OtherSeed", "Sparse", "Way", "catalogue", "config_of", "default_way", "name_of", "select"]

BUDGETS, SCHEDULES, FORECASTS, DILATIONS = (
    (5, 7, 9, 12),
    ("growing", "even"),
    ("none", "linear", "quadratic", "rising"),
    (0, 1, 2, 4),
)
_NAME = re.compile(
    r"(?:lockstep|temporal-(?:(?P<count>\d+) (?P<schedule>growing|even)|(?P<list>\d+(?:,\d+)+)) "
    r"(?P<forecast>none|linear|quadratic|rising)) d(?P<dilation>\d+)(?P<frozen> frozen)?"
)


class Way(Protocol):
    """How an edit is made, and what it costs."""

    @property
    def name(self) -> str:
        """Of the row."""

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Image.Image:
        """The result."""

    def work(self, work: Work, edit: Edit) -> int:
        """Multiply-accumulates."""


@dataclass(frozen=True)
class Dense:
    """The pipeline without SIGE: what all others are compared with."""

    name: str = "dense"

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Image.Image:
        return editing.edit(pipe, edit.image, mask=edit.mask, sampling=sampling)

    def work(self, work: Work, edit: Edit) -> int:
        return work.dense((edit.image.height, edit.image.width))


@dataclass(frozen=True)
class OtherSeed(Dense):
    """Dense with other noise: what a different result for the same prompt scores."""

    name: str = "other seed"

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Image.Image:
        return super().paint(pipe, edit, replace(sampling, seed=sampling.seed + 1_000_000))


@dataclass(frozen=True)
class Crop:
    """Crop and stitch."""

    name: str = "crop and stitch"

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Image.Image:
        return crop_and_stitch(pipe, edit.image, edit.mask, sampling)

    def work(self, work: Work, edit: Edit) -> int:
        left, top, right, bottom = crop_box(edit.mask)
        return work.dense((bottom - top, right - left))


@dataclass(frozen=True)
class Sparse:
    """SIGE with a configuration."""

    config: sige.EditConfig

    @property
    def name(self) -> str:
        return name_of(self.config)

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Image.Image:
        return editing.edit(pipe, edit.image, mask=edit.mask, sampling=sampling, config=self.config)

    def work(self, work: Work, edit: Edit) -> int:
        return work.sparse(edit.mask, self.config)


def name_of(config: sige.EditConfig) -> str:
    """A name that says everything.

    >>> name_of(sige.EditConfig(dense_steps=7)), name_of(sige.EditConfig(policy="lockstep", exact_statistics=False))
    ('temporal-7 growing rising d0', 'lockstep d1 frozen')
    """
    end = f"d{config.dilates_by}{'' if config.exact_statistics else ' frozen'}"
    if config.policy == "lockstep":
        return f"lockstep {end}"
    if isinstance(config.dense_steps, tuple):
        return f"temporal-{','.join(map(str, config.dense_steps))} {config.forecast} {end}"
    return f"temporal-{config.dense_steps} {config.schedule} {config.forecast} {end}"


def config_of(name: str) -> sige.EditConfig | None:
    """The configuration of a name; None where it is no name of a sparse way.

    >>> config_of("temporal-0,1,4,10 linear d2").dense_steps
    (0, 1, 4, 10)
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    more: dict[str, Any] = {"dilation": int(found["dilation"]), "exact_statistics": found["frozen"] is None}
    if name.startswith("lockstep"):
        return sige.EditConfig(policy="lockstep", **more)
    if found["list"]:
        steps = tuple(int(step) for step in found["list"].split(","))
        return sige.EditConfig(dense_steps=steps, forecast=found["forecast"], **more)
    more |= {"forecast": found["forecast"], "schedule": found["schedule"]}
    return sige.EditConfig(dense_steps=int(found["count"]), **more)


def default_way(steps: int) -> Sparse:
    """What `sige.EditConfig()` does with that many steps, its budget and dilation said in numbers."""
    default = sige.EditConfig()
    return Sparse(replace(default, dense_steps=len(dense_steps(steps, default)), dilation=default.dilates_by))


def catalogue(steps: int) -> list[Way]:
    """Every row of the full table, those first that a short sitting should have."""
    default, lockstep = default_way(steps), Sparse(sige.EditConfig(policy="lockstep", dilation=1))
    ways: list[Way] = [default, lockstep, OtherSeed(), Crop()]
    ways += [
        Sparse(replace(default.config, dense_steps=budget, schedule=schedule, forecast=forecast))
        for budget in BUDGETS
        for schedule in SCHEDULES
        for forecast in FORECASTS
        if (schedule, forecast) != ("even", "rising")
    ]
    for sparse in (default, lockstep):
        ways += [Sparse(replace(sparse.config, dilation=dilation)) for dilation in DILATIONS]
        ways.append(Sparse(replace(sparse.config, exact_statistics=False)))
    return list(dict.fromkeys(ways))


def select(patterns: Sequence[str], steps: int) -> list[Way]:
    """The rows of the catalogue that a pattern fits, and others that are named in full.

    >>> [way.name for way in select(["lockstep d[12]", "temporal-6 even none d0"], 30)]
    ['lockstep d1', 'lockstep d2', 'temporal-6 even none d0']
    """
    chosen: list[Way] = []
    for pattern in patterns:
        fitting = [way for way in catalogue(steps) if fnmatchcase(way.name, pattern)]
        if not fitting:
            fitting = [_named(pattern, steps)]
        chosen += fitting
    return list(dict.fromkeys(chosen))


def _named(name: str, steps: int) -> Way:
    config = config_of(name)
    if config is None:
        known = ", ".join(repr(way.name) for way in catalogue(steps))
        raise InputError(f"--rows: {name!r} fits no row, expected names or patterns of these: {known}")
    return Sparse(config)
