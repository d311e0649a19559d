"""Lockstep: at every step the original, noised as the edit is, runs dense and is recorded; the edit runs packed on it.

The ancestor's algorithm: slower than dense, because each step costs a dense pass and a packed one. The reference for
quality.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sige.errors import ConfigError
from sige.policies.checks import check_bool, check_count
from sige.policies.plan import ACTIVE, Plan, Step

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Lockstep"]


@dataclass(frozen=True, eq=False)
class Lockstep:
    """The original beside the edit at every step.

    `original` are the scaled latents of the original picture; `start` are those that the pipeline adds its noise to,
    where they are others. `sdxl.edit` fills both in; `handle.edit` needs them.

    >>> Lockstep().dilates_by
    1
    """

    original: Tensor | None = None  # [1 or B, C, h, w]
    start: Tensor | None = None  # [1 or B, C, h, w]; None: the original
    dilation: int | None = None  # of a region that is made from a mask; None: 1
    exact_statistics: bool = True  # False freezes GroupNorm's statistics, for comparison

    def __post_init__(self) -> None:
        check_bool("exact_statistics", self.exact_statistics)
        if self.dilation is not None:
            check_count("dilation", self.dilation, 0)
        if self.start is not None and self.original is None:
            raise ConfigError("start: it goes with the original: pass the original's scaled latents, too")
        for name in ("original", "start"):
            _check_latents(name, getattr(self, name))

    @property
    def dilates_by(self) -> int:
        """Positions that a mask grows by: recordings are the original's, which differ around the edit, too."""
        return 1 if self.dilation is None else self.dilation

    def plan(self, count: int, active: float, first: int = 0, skips: bool = False, halves: bool = False) -> Plan:
        """A step for each of `count`, all alike: each records the original and reads that recording.

        >>> Lockstep().plan(2, active=0.1)[1].reads
        ((1, 1.0),)
        """
        return Plan(tuple(Step(ACTIVE, ((step, 1.0),), records_original=True) for step in range(count)))


def _check_latents(name: str, latents: Tensor | None) -> None:  # [B, C, h, w]
    if latents is None:
        return
    if not hasattr(latents, "is_floating_point"):
        raise ConfigError(f"{name}: got {type(latents).__name__}, expected a tensor of scaled latents")
    if latents.dim() != 4 or not latents.is_floating_point():
        raise ConfigError(
            f"{name}: got {latents.dtype} of shape {list(latents.shape)}, expected floating-point latents [B, C, h, w]"
        )
