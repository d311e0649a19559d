"""The features that packed layers hand to each other, and the state that all of them read during one pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sige.packed.layout import Layout
from sige.packed.prompt import PromptKeys
from sige.recordings import BlendedComponent
from sige.sizes import Size

__all__ = ["Features", "PackedPass"]


@dataclass(frozen=True)
class Features:
    """The active positions' features at one level."""

    rows: Tensor  # [B, N, C]
    size: Size  # of the level


@dataclass(frozen=True)
class PackedPass:
    """The state that every layer of one packed pass reads: the region's indices, the recordings, the prompt's keys."""

    layout: Layout
    recorded: BlendedComponent
    exact_statistics: bool = True
    prompt: PromptKeys = field(default_factory=PromptKeys)
    kept: dict[str, Tensor] | None = None  # where given: filled with the new rows [B, N, C] by their recording's key

    def keep(self, key: str, rows: Tensor) -> None:  # [B, N, C]
        """Keeps new rows, for a caller that asked for them: they replace the recorded ones in a `Patch`.

        Rows that share their memory with others are copied: the patch would keep the others, too.
        """
        if self.kept is not None:
            alone = rows.untyped_storage().nbytes() == rows.nbytes
            self.kept[key] = rows if alone else rows.clone()
