"""Result: what comes back of a request."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from sdxl.edits.sparse import PassesByComponent
from sdxl.edits.work import EditWork
from sige import Region

__all__ = ["Result"]

CELL = 8  # pixels a latent


@dataclass(frozen=True, eq=False)
class Result:
    """A finished edit."""

    image: Image.Image
    region: Region  # what was computed at packed passes
    passes: PassesByComponent  # what ran: "unet", "vae.encoder", "vae.decoder", and "refiner.unet" where there is one
    steps: tuple[int, ...]  # that the base took, then those of the refiner
    seconds: float  # from the first encoding to the finished picture
    counted: EditWork

    @property
    def work(self) -> float:
        """Multiply-accumulates, attention included, as a share of those of the same edit done dense.

        They are counted on the meta device when asked for the first time, which takes seconds for a model of SDXL's
        size.
        """
        return self.counted.share

    @property
    def computed(self) -> float:
        """Share of the base UNet's positions that its passes computed: near `work`, and there at once."""
        height, width = self.region.image_size
        passes = self.passes["unet"]
        ratio = self.region.ratio(-(-height // CELL), -(-width // CELL))
        return (passes.dense + passes.packed * ratio) / self.steps[0]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all passes, attention included."""
        return self.counted.macs
