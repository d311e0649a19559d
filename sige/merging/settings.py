"""The settings of token merging. Importable without torch, so that a command checks them before it loads anything."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Integral, Real

from sige.errors import ConfigError

__all__ = ["LEVELS", "Merging"]

LEVELS = (1, 2, 4, 8)  # latents that a position is wide, at the levels of a UNet


@dataclass(frozen=True)
class Merging:
    """How many rows merge, at which levels, and around which layers.

    Each cell of `sy` x `sx` positions has one destination. All other rows are sources. Of the sources, those that are
    most like a destination merge into it, `ratio` of all rows.

    >>> Merging(ratio=0.8)
    Traceback (most recent call last):
    sige.errors.ConfigError: ratio: got 0.8, expected a number from 0 to 0.75: of 2 x 2 rows one stays
    """

    ratio: float = 0.5  # of all rows; 0: none merge
    max_downsample: int | None = 1  # the coarsest level that merges, one of LEVELS; None: the finest with attention
    sx: int = 2  # columns of a cell
    sy: int = 2  # rows of a cell
    use_rand: bool = True  # the destination is anywhere in its cell; else at its top left
    merge_attn: bool = True  # around self-attention
    merge_crossattn: bool = False
    merge_mlp: bool = False  # around the feed-forward layers

    def __post_init__(self) -> None:
        self._check_kinds()
        for name in ("sx", "sy"):
            if not 1 <= getattr(self, name) <= 64:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected a number from 1 to 64")
        if self.sx * self.sy == 1:
            raise ConfigError("sx: got cells of 1 x 1, where every row is a destination: take sx=2 or sy=2")
        most = 1 - 1 / (self.sx * self.sy)
        if not 0 <= self.ratio <= most:
            raise ConfigError(
                f"ratio: got {self.ratio:g}, expected a number from 0 to {most:g}: of {self.sy} x {self.sx} rows one "
                "stays"
            )
        if self.max_downsample is not None and self.max_downsample not in LEVELS:
            known = ", ".join(map(str, LEVELS))
            raise ConfigError(f"max_downsample: got {self.max_downsample}, expected one of {known}")
        if not (self.merge_attn or self.merge_crossattn or self.merge_mlp):
            raise ConfigError("merge_attn: off, as merge_crossattn and merge_mlp are: switch one on, or take ratio 0")

    def _check_kinds(self) -> None:
        """Refuses values of another kind: a command line or a picture may bring any."""
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "max_downsample" and value is None:
                continue
            is_switch = isinstance(value, bool)
            wanted, fits = {
                "float": ("a number", isinstance(value, Real) and not is_switch),
                "bool": ("True or False", is_switch),
            }.get(str(item.type), ("a whole number", isinstance(value, Integral) and not is_switch))
            if not fits:
                raise ConfigError(f"{item.name}: got {value!r}, expected {wanted}")
