"""The presets of the temporal policy: how many steps run dense, which of those run half, and which between are skipped.

plain     a fifth of the steps dense, every other one packed
quality   nearly a third dense; between them every second step skipped
balanced  nearly a quarter dense; between them first every second step skipped, soon two of three
fast      as balanced, and every second dense step half dense
fastest   as fast, and late dense steps leave out the deepest level: an experiment until real SDXL weights confirm it

The first gaps skip nothing. Chosen on edits that the tables do not show (docs/quality.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PRESETS", "SHORTEST", "Preset", "fill"]

SHORTEST = 20  # steps: a shorter call changes too much from step to step to leave one out

Fills = tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Preset:
    """What a preset does in a call of any length.

    `fills` holds pairs: from this share of the call on, the steps after a dense one repeat these codes.
    """

    dense: int  # of 30 steps; in other calls the same share
    fills: Fills = ((0.0, "p"),)
    half: int = 0  # every so manieth dense step runs half; 0: none
    outer: float = 1.0  # from this share of the call on, dense steps leave out the deepest level

    def budget(self, count: int) -> int:
        """How many of `count` steps run dense.

        >>> [PRESETS[name].budget(30) for name in PRESETS], PRESETS["balanced"].budget(8), PRESETS["balanced"].budget(4)
        ([6, 9, 7, 7, 7], 3, 2)
        """
        return min(max(-(-self.dense * count // 30), 3 if count > 4 else 2), count)

    def skipped(self, count: int, dense: Sequence[int]) -> tuple[int, ...]:
        """The steps of `count` that are skipped.

        >>> PRESETS["balanced"].skipped(30, (0, 1, 4, 8, 13, 18, 24))
        (5, 7, 9, 10, 12, 14, 15, 17, 19, 20, 22, 23, 25, 26, 28, 29)
        """
        return fill(dense, count, self.fills) if count >= SHORTEST else ()

    def halved(self, count: int, dense: Sequence[int]) -> tuple[int, ...]:
        """The dense steps that run half.

        >>> PRESETS["fast"].halved(30, (0, 1, 4, 8, 13, 18, 24))
        (0, 4, 13, 24)
        """
        return tuple(dense[:: self.half]) if self.half and count >= SHORTEST else ()

    def outermost(self, count: int, dense: Sequence[int]) -> tuple[int, ...]:
        """The dense steps that leave out the deepest level.

        >>> PRESETS["fastest"].outermost(30, (0, 1, 4, 8, 13, 18, 24))
        (13, 18, 24)
        """
        return tuple(step for step in dense if step >= self.outer * count) if count >= SHORTEST else ()


def fill(anchors: Sequence[int], count: int, fills: Fills) -> tuple[int, ...]:
    """The steps that are skipped: after each anchor the codes of its share of the call repeat until the next.

    >>> fill((0, 1, 6), 10, ((0.0, "p"), (0.5, "ssp")))
    (7, 8)
    """
    found = []
    for begin, end in zip(anchors, [*anchors[1:], count], strict=True):
        codes = [codes for share, codes in fills if begin >= share * count][-1]
        found += [step for step in range(begin + 1, end) if codes[(step - begin - 1) % len(codes)] == "s"]
    return tuple(found)


EARLY, SOON = 0.09, 0.25  # shares of the call: before the third dense step of 30, before the fourth
TWO_OF_THREE: Fills = ((0.0, "p"), (EARLY, "sp"), (SOON, "ssp"))

PRESETS = {
    "plain": Preset(6),
    "quality": Preset(9, ((0.0, "p"), (EARLY, "sp"))),
    "balanced": Preset(7, TWO_OF_THREE),
    "fast": Preset(7, TWO_OF_THREE, half=2),
    "fastest": Preset(7, TWO_OF_THREE, half=2, outer=0.4),
}
