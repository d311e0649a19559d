"""The ways to make an edit that are compared, each a row of the table, and their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Protocol

import sige
from benchmarks.quality.crop import crop_and_stitch
from benchmarks.quality.edits import Edit
from benchmarks.quality.merging import fewer_keys, merged
from benchmarks.quality.painting import paint
from benchmarks.quality.rivals import rivals
from sdxl.edits.result import Result
from sdxl.edits.sampling import Sampling
from sdxl.errors import InputError
from sige.policies.presets import PRESETS
from sige.policies.schedule import GROWING

__all__ = [
    "Crop",
    "Dense",
    "Merged",
    "OtherSeed",
    "Sparse",
    "Way",
    "catalogue",
    "default_way",
    "name_of",
    "policy_of",
    "select",
]

OneShot = sige.Temporal | sige.Lockstep  # policies of an edit without a session
PLAIN = "plain"  # the preset that a name leaves out
BUDGETS, SCHEDULES, FORECASTS, DILATIONS = (
    (5, 7, 9, 12),
    (GROWING, "even"),
    ("none", "linear", "quadratic", "rising"),
    (0, 1, 2, 4),
)
_NAME = re.compile(
    r"(?:lockstep|temporal-(?:(?P<count>\d+) (?P<schedule>growing|even)|(?P<list>\d+(?:,\d+)+)) "
    r"(?P<forecast>none|linear|quadratic|rising)) d(?P<dilation>\d+)(?P<frozen> frozen)?"
    r"(?: (?P<preset>quality|balanced|fastest|fast))?(?: skip (?P<skip>[\d,]+))?(?: half (?P<half>[\d,]+))?"
    r"(?: outer (?P<outer>[\d,]+))?"
)
_MERGED = re.compile(r"(?P<way>.+), (?:tome (?P<ratio>[\d.]+) level (?P<level>\d)|keys (?P<keys>[\d.]+))")


class Way(Protocol):
    """A way to make an edit."""

    @property
    def name(self) -> str:
        """The name of the row."""

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Result:
        """The result, with the work that it took."""


@dataclass(frozen=True)
class Dense:
    """The pipeline without SIGE, with which all other ways are compared."""

    name: str = "dense"

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Result:
        return paint(pipe, edit, sampling=sampling)


@dataclass(frozen=True)
class OtherSeed(Dense):
    """Dense with other noise: what a different result for the same prompt scores."""

    name: str = "other seed"

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Result:
        return super().paint(pipe, edit, replace(sampling, seed=sampling.seed + 1_000_000))


@dataclass(frozen=True)
class Crop:
    """Crop and stitch."""

    name: str = "crop and stitch"

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Result:
        if edit.edited is not None:
            raise InputError("--rows: 'crop and stitch' is for inpainting: leave it out with --set sdedit")
        return crop_and_stitch(pipe, edit.image, edit.mask, sampling)


@dataclass(frozen=True)
class Sparse:
    """SIGE with a policy."""

    policy: OneShot = field(compare=False)
    name: str = field(init=False)  # tells every argument of the policy, so equal names are equal ways

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", name_of(self.policy))

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Result:
        return paint(pipe, edit, sampling=sampling, policy=self.policy)


@dataclass(frozen=True)
class Merged:
    """A sparse way with token merging: in its dense passes, or in the recorded keys that its packed passes read."""

    way: Way
    ratio: float
    level: int | None  # the coarsest that merges in dense passes; None: recorded keys merge

    @property
    def name(self) -> str:
        where = "keys" if self.level is None else "tome"
        level = "" if self.level is None else f" level {self.level}"
        return f"{self.way.name}, {where} {self.ratio:g}{level}"

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Result:
        with fewer_keys(self.ratio) if self.level is None else merged(pipe, self.ratio, self.level):
            return self.way.paint(pipe, edit, sampling)


def name_of(policy: OneShot) -> str:
    """A name that tells every argument of the policy.

    >>> name_of(sige.Temporal("plain", dense_steps=7)), name_of(sige.Lockstep(exact_statistics=False))
    ('temporal-7 growing rising d0', 'lockstep d1 frozen')
    >>> name_of(sige.Temporal("fast", dense_steps=6, half_steps=(0,)))
    'temporal-6 growing rising d0 fast half 0'
    """
    end = f"d{policy.dilates_by}{'' if policy.exact_statistics else ' frozen'}"
    if isinstance(policy, sige.Lockstep):
        return f"lockstep {end}"
    end += "" if policy.preset == PLAIN else f" {policy.preset}"
    for word, steps in (("skip", policy.skipped_steps), ("half", policy.half_steps), ("outer", policy.outer_steps)):
        end += "" if steps is None else f" {word} {_listed(steps)}"
    if isinstance(policy.dense_steps, tuple):
        return f"temporal-{_listed(policy.dense_steps)} {policy.forecast} {end}"
    return f"temporal-{policy.dense_steps} {policy.schedule or GROWING} {policy.forecast} {end}"


def _listed(steps: Sequence[int]) -> str:
    return ",".join(map(str, steps))


def _steps(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def policy_of(name: str) -> OneShot | None:
    """The policy that a name describes; None where the name is not that of a sparse way.

    >>> policy_of("temporal-0,1,4,10 linear d2").dense_steps
    (0, 1, 4, 10)
    >>> policy_of("temporal-6 growing rising d0 balanced skip 7,9").skipped_steps
    (7, 9)
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    more: dict[str, Any] = {"dilation": int(found["dilation"]), "exact_statistics": found["frozen"] is None}
    if name.startswith("lockstep"):
        return sige.Lockstep(**more)
    more |= {"forecast": found["forecast"], "preset": found["preset"] or PLAIN}
    kinds = (("skipped", "skip"), ("half", "half"), ("outer", "outer"))
    more |= {f"{key}_steps": _steps(found[word]) for key, word in kinds if found[word]}
    if found["list"]:
        return sige.Temporal(dense_steps=_steps(found["list"]), **more)
    more |= {"schedule": found["schedule"]}
    return sige.Temporal(dense_steps=int(found["count"]), **more)


def default_policy(steps: int) -> sige.Temporal:
    """`sige.Temporal()` for a call of `steps` steps, with its budget, schedule and dilation written out."""
    return _written_out(sige.Temporal(), steps)


def _written_out(policy: sige.Temporal, steps: int) -> sige.Temporal:
    return replace(policy, dense_steps=len(policy.dense_of(steps)), schedule=GROWING, dilation=policy.dilates_by)


def default_way(steps: int) -> Sparse:
    """The way of the default policy."""
    return Sparse(default_policy(steps))


def catalogue(steps: int) -> list[Way]:
    """Every row of the full table; the rows of a short sitting come first."""
    plain, lockstep = _written_out(sige.Temporal(PLAIN), steps), Sparse(sige.Lockstep(dilation=1))
    ways: list[Way] = [default_way(steps)]
    ways += [Sparse(_written_out(sige.Temporal(preset), steps)) for preset in PRESETS]
    ways += [lockstep, OtherSeed(), Crop(), *rivals()]
    ways += [
        Sparse(replace(plain, dense_steps=budget, schedule=schedule, forecast=forecast))
        for budget in BUDGETS
        for schedule in SCHEDULES
        for forecast in FORECASTS
        if (schedule, forecast) != ("even", "rising")
    ]
    for sparse in (Sparse(plain), lockstep):
        ways += [Sparse(replace(sparse.policy, dilation=dilation)) for dilation in DILATIONS]
        ways.append(Sparse(replace(sparse.policy, exact_statistics=False)))
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
    if found := _MERGED.fullmatch(name):
        level = None if found["level"] is None else int(found["level"])
        return Merged(_named(found["way"], steps), float(found["ratio"] or found["keys"]), level)
    policy = policy_of(name)
    if policy is None:
        known = ", ".join(repr(way.name) for way in catalogue(steps))
        raise InputError(f"--rows: {name!r} fits no row, expected names or patterns of these: {known}")
    return Sparse(policy)
