"""The presets of the temporal policy: how many steps run dense, which of those run half, and which between are skipped.

plain     a fifth of the steps dense, every other one packed
quality   nearly a third dense; between them every second step skipped
balanced  nearly a quarter dense; between them first every second step skipped, soon two of three
fast      as balanced, and every second dense step half dense

The first gaps skip nothing. Chosen on edits that the tables do not show (docs/quality.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PRESETS", "SHORTEST", "Preset"]

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

    def budget(self, count: int) -> int:
        """How many of `count` steps run dense.

        >>> [PRESETS[name].budget(30) for name in PRESETS], PRESETS["balanced"].budget(8), PRESETS["balanced"].budget(4)
        ([6, 9, 7, 7], 3, 2)
        """
        return min(max(-(-self.dense * count // 30), 3 if count > 4 else 2), count)

    def skipped(self, count: int, dense: Sequence[int]) -> tuple[int, ...]:
        """The steps of `count` that are skipped.

        >>> PRESETS["balanced"].skipped(30, (0, 1, 4, 8, 13, 18, 24))
        (5, 7, 9, 10, 12, 14, 15, 17, 19, 20, 22, 23, 25, 26, 28, 29)
        """
        if count < SHORTEST:
            return ()
        found = []
        for begin, end in zip(dense, [*dense[1:], count], strict=True):
            fill = [codes for share, codes in self.fills if begin >= share * count][-1]
            found += [step for step in range(begin + 1, end) if fill[(step - begin - 1) % len(fill)] == "s"]
        return tuple(found)

    def halved(self, count: int, dense: Sequence[int]) -> tuple[int, ...]:
        """The dense steps that run half.

        >>> PRESETS["fast"].halved(30, (0, 1, 4, 8, 13, 18, 24))
        (0, 4, 13, 24)
        """
        return tuple(dense[:: self.half]) if self.half and count >= SHORTEST else ()


EARLY, SOON = 0.09, 0.25  # shares of the call: before the third dense step of 30, before the fourth
TWO_OF_THREE: Fills = ((0.0, "p"), (EARLY, "sp"), (SOON, "ssp"))

PRESETS = {
    "plain": Preset(6),
    "quality": Preset(9, ((0.0, "p"), (EARLY, "sp"))),
    "balanced": Preset(7, TWO_OF_THREE),
    "fast": Preset(7, TWO_OF_THREE, half=2),
}
