"""Result: what an edit returns."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from sdxl.edits.request import CELL
from sdxl.edits.sparse import PassesByComponent
from sdxl.edits.work import EditWork
from sige import Region

__all__ = ["Result"]


@dataclass(frozen=True, eq=False)
class Result:
    """A finished edit."""

    image: Image.Image
    region: Region  # the positions that packed passes compute
    passes: PassesByComponent  # what ran: "unet", "vae.encoder", "vae.decoder", and "refiner.unet" where there is one
    steps: tuple[int, ...]  # taken by the base, then by the refiner
    seconds: float  # from the first encoding to the finished picture
    counted: EditWork

    @property
    def work(self) -> float:
        """Multiply-accumulates, attention included, as a share of those of the same edit with dense passes only.

        The first access counts them on the meta device, which takes seconds for a model of SDXL's size.
        """
        return self.counted.share

    @property
    def computed(self) -> float:
        """The share of the base UNet's positions that its passes computed: close to `work`, without counting."""
        height, width = self.region.image_size
        passes = self.passes["unet"]
        ratio = self.region.ratio(-(-height // CELL), -(-width // CELL))
        return (passes.dense + passes.outer + passes.packed * ratio + passes.half * (1 + ratio) / 2) / self.steps[0]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all passes, attention included."""
        return self.counted.macs
