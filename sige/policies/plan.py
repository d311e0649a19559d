"""A plan: for each step of a pipeline's call, which positions are computed and what that reads. Numbers only.

code  step                       what runs                                        what it leaves
D     Step()                     dense                                            a recording
H     Step(half=True, reads=…)   dense with the prompt, packed without            a recording
O     Step(outer=True, reads=…)  dense, the deepest level a forecast              a recording
p     Step(ACTIVE, reads=…)      packed, on a weighted sum of recordings          nothing
s     Step(NONE, outputs=…)      nothing: a weighted sum of earlier outputs       nothing
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = ["ACTIVE", "ALL", "NEARLY_ALL", "NONE", "Plan", "Positions", "Step", "Terms"]

NEARLY_ALL = 0.95  # of the positions active: from here on a dense pass costs no more (docs/speed.md)

Positions = Literal["all", "active", "none"]
ALL: Positions = "all"
ACTIVE: Positions = "active"
NONE: Positions = "none"
Terms = tuple[tuple[int, float], ...]  # earlier steps, each with its weight

CODES = {"D": "dense", "H": "half dense", "O": "outer levels dense", "p": "packed", "s": "skipped"}


@dataclass(frozen=True)
class Step:
    """One step: the positions that are computed, and the earlier steps that this reads.

    With `half` only the half of the batch that sees the prompt runs dense. The other half runs packed on its last full
    recording, to which is added by how much the first half has changed since. With `outer` a dense pass leaves out the
    deepest level, whose features are the weighted sum of those recorded earlier.
    """

    positions: Positions = ALL
    reads: Terms = ()  # steps that were recorded
    stored: Terms = ()  # steps that a store keeps from an earlier edit
    outputs: Terms = ()  # steps whose output a skipped step continues
    half: bool = False
    outer: bool = False
    records_original: bool = False  # first the original, noised as the edit is, runs dense and is recorded

    @property
    def code(self) -> str:
        """The letter of the step: D, H, O, p or s."""
        if self.positions == ALL:
            return "H" if self.half else "O" if self.outer else "D"
        return "p" if self.positions == ACTIVE else "s"


@dataclass(frozen=True)
class Plan:
    """The steps of one call of a pipeline.

    >>> plan = Plan((Step(), Step(), Step(ACTIVE, ((1, 1.0),)), Step(NONE, outputs=((1, -1.0), (2, 2.0)))))
    >>> plan.codes, plan.work(packed=0.125)
    ('DDps', 2.125)
    >>> print(plan.describe())
    4 steps: 2 dense, 1 packed, 1 skipped
       0  dense
       1  dense, recorded
       2  packed on 1
       3  skipped, from outputs of -1 x 1, 2 x 2
    """

    steps: tuple[Step, ...]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Step:
        return self.steps[index]

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    @property
    def codes(self) -> str:
        """The letters of the steps, one after another."""
        return "".join(step.code for step in self.steps)

    def work(self, packed: float, outer: float = 1.0) -> float:
        """The plan's passes in dense passes.

        `packed` is what a packed pass costs of a dense one, `outer` one of the outer levels.
        """
        cost = {"D": 1.0, "H": (1 + packed) / 2, "O": outer, "p": packed, "s": 0.0}
        originals = sum(step.records_original for step in self.steps)
        return originals + sum(cost[code] for code in self.codes)

    def describe(self) -> str:
        """The plan in words, a line for each step."""
        count = Counter(self.codes)
        kinds = ", ".join(f"{count[code]} {name}" for code, name in CODES.items() if count[code])
        lines = [f"{i:>4}  {self._words(i)}" for i in range(len(self.steps))]
        return "\n".join([f"{len(self.steps)} steps: {kinds}", *lines])

    def _words(self, index: int) -> str:
        step = self.steps[index]
        words = CODES[step.code]
        if step.reads or step.stored:
            read = [_sum(step.stored, "stored "), _sum(step.reads)]
            on = {"H": ", the other half packed on ", "O": ", the deepest from "}.get(step.code, " on ")
            words += on + ", ".join(filter(None, read))
        if step.outputs:
            words += ", from outputs of " + _sum(step.outputs)
        if step.records_original:
            words = f"the original recorded, {words}"
        elif step.positions == ALL and self.is_read(index, index + 1):
            words += ", recorded"
        return words

    def is_read(self, recorded: int, first: int) -> bool:
        """Says whether a step from `first` on reads what was recorded at the step `recorded`.

        >>> plan = Plan((Step(), Step(ACTIVE, ((0, 1.0),)), Step()))
        >>> plan.is_read(0, first=1), plan.is_read(0, first=2)
        (True, False)
        """
        return any(recorded == other for step in self.steps[first:] for other, _ in step.reads)

    def is_continued(self, computed: int, first: int) -> bool:
        """Says whether a step from `first` on continues the output of the step `computed`."""
        return any(computed == other for step in self.steps[first:] for other, _ in step.outputs)


def _sum(terms: Terms, name: str = "") -> str:
    """Steps with their weights in words.

    >>> _sum(((1, -0.25), (5, 1.25))), _sum(((5, 1.0),), "stored ")
    ('-0.25 x 1, 1.25 x 5', 'stored 5')
    """
    return ", ".join(f"{name}{step}" if weight == 1 else f"{weight:.3g} x {name}{step}" for step, weight in terms)
