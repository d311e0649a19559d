"""Request: one edit as a value that checks itself when it is made. Importable without torch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sdxl.edits.limits import MOST_PIXELS
from sdxl.edits.sampling import Sampling
from sdxl.errors import InputError
from sdxl.pictures.changes import changed_alpha
from sdxl.pictures.images import pad_to_multiple, size_of, size_text
from sdxl.pictures.masks import Mask, is_empty, is_full, latent_cells, mask_from_array, mask_from_image, pad_mask
from sdxl.pictures.shaping import feather_mask, grow_mask
from sige.errors import ConfigError
from sige.policies import Lockstep
from sige.sizes import Size

if TYPE_CHECKING:
    from sige import Policy, Region

__all__ = ["CELL", "KEEPS", "Request"]

logger = logging.getLogger(__name__)

CELL = 8  # pixels that a latent covers, along each side
KEEPS = ("outside", "nothing")  # of an SDEdit's original


@dataclass(frozen=True, eq=False)
class Request:
    """One edit; the fields that are given decide its task.

    `image` and `mask` ask for inpainting: the mask's white is repainted, grey blends, all else stays bit for bit.
    `only_masked` paints only the part around the mask, at the model's size, and puts it back: for large pictures.
    `edited` asks for SDEdit: noise is added to it and removed under the prompt; `image` is the picture before it.
    `image` alone asks for img2img; no picture at all asks for text2img at `size`.

    With a `policy` only what the edit touches is computed at every step, without one every pass is dense.

    >>> Request(Sampling("a horse"), image=Image.new("RGB", (9, 9)), mask=np.ones((9, 8)))
    Traceback (most recent call last):
    sdxl.errors.InputError: mask: got 9 high x 8 wide, expected the size of the image, 9 high x 9 wide: resize the mask
    """

    sampling: Sampling
    image: Image.Image | None = None  # before the edit
    mask: Image.Image | npt.NDArray[Any] | None = None  # [H, W]; kept as floats from 0 to 1
    edited: Image.Image | None = None  # with the rough edit in it
    size: Size | None = None  # of a picture from text alone, or of the part painted; None: the model's own
    policy: Policy | None = None  # sige.Temporal, sige.Lockstep; None: every pass is dense
    refined: bool = False  # a refiner takes part: after the base, or from `sampling.denoising_split` on
    keep: str | None = None  # of an SDEdit's original: outside, nothing; None: as `keeps_outside` says
    grow: int = 0  # pixels that the mask grows by, to every side
    mask_blur: int = 0  # pixels over which its edge turns soft, inwards
    match_edge: int = 0  # pixels over which what is painted meets the picture at its edge; 0: as it was painted
    only_masked: int | None = None  # pixels of context around the mask; None: the whole picture is painted
    control: Image.Image | None = None  # what the pipeline's ControlNet follows

    def __post_init__(self) -> None:
        if self.mask is not None:
            object.__setattr__(self, "mask", _as_mask(self.mask))
        self._check_pictures()
        self._check_keep()
        self._check_shaping()
        self._check_control()
        self._check_policy()
        if self.task != "text2img":
            self.sampling.strength_of(self.task)
        if self.refined:
            self.sampling.check_refiner(self.task)
        elif self.sampling.denoising_split is not None:
            raise InputError(
                f"denoising_split: got {self.sampling.denoising_split}, but there is no refiner that could take over: "
                "name one, or leave the split out",
                "denoising_split",
            )

    # ---- what it asks for -------------------------------------------------------------------------------------------

    @property
    def task(self) -> str:
        """The name of the task: inpainting, sdedit, img2img or text2img."""
        if self.mask is not None:
            return "inpainting"
        if self.edited is not None:
            return "sdedit"
        return "text2img" if self.image is None else "img2img"

    @property
    def is_empty(self) -> bool:
        """Says whether the mask is empty, so that the result is the picture itself."""
        return self.alpha is not None and is_empty(self.alpha)

    @property
    def sparse_policy(self) -> Policy | None:
        """The policy that the passes follow; None where all run dense, as they do under a mask that is all white."""
        return None if self.alpha is not None and is_full(self.alpha) else self.policy

    @property
    def keeps_outside(self) -> bool:
        """Says whether an SDEdit keeps the original outside what was painted over; a sparse one does by itself."""
        if self.keep is None:
            return self.task == "sdedit" and self.policy is not None
        return self.keep == "outside"

    # ---- made once --------------------------------------------------------------------------------------------------

    @cached_property
    def start(self) -> Image.Image | None:
        """The picture that noise is added to, its sides padded to multiples of 8; None for text2img."""
        picture = self.image if self.edited is None else self.edited
        return None if picture is None else _padded(picture)

    @cached_property
    def original(self) -> Image.Image | None:
        """The picture before the edit, padded: `start` itself unless there is an edited one."""
        return self.start if self.edited is None or self.image is None else pad_to_multiple(self.image)[0]

    @cached_property
    def mask_image(self) -> Image.Image | None:
        """The mask as pipelines take it: padded, white in every cell of 8x8 pixels that it touches."""
        return None if self._cells is None else Image.fromarray(self._cells.astype(np.uint8) * 255)

    @cached_property
    def region(self) -> Region:
        """The region that packed passes compute; without a policy the mask's cells, or the whole picture."""
        from sige import Region

        policy = self.sparse_policy
        if self._cells is not None:
            return Region.from_mask(self._cells, dilation=0 if policy is None else policy.dilates_by)
        if policy is None:
            return Region.full(*self.padded_size)
        assert self.original is not None and self.start is not None
        return Region.from_images(_pixels(self.original), _pixels(self.start), dilation=policy.dilates_by)

    @property
    def padded_size(self) -> Size:
        """The size of the picture that the models work on."""
        if self.start is not None:
            return size_of(self.start)
        if self.size is None:
            raise InputError("size: missing, and the model's own is not known here: give height and width", "size")
        return self.size

    @property
    def picture_size(self) -> Size:
        """The size of the picture that comes back."""
        picture = self.image if self.edited is None else self.edited
        return self.padded_size if picture is None else size_of(picture)

    @property
    def pixels(self) -> int:
        """The number of its pixels."""
        height, width = self.picture_size
        return height * width

    @cached_property
    def alpha(self) -> Mask | None:  # [H, W]
        """The mask, grown and with its soft edge, from 0 (keep) to 1 (repaint)."""
        assert not isinstance(self.mask, Image.Image)
        return None if self.mask is None else feather_mask(grow_mask(self.mask, self.grow), self.mask_blur)

    @cached_property
    def control_image(self) -> Image.Image | None:
        """What the ControlNet follows, padded as `start` is."""
        return None if self.control is None else pad_to_multiple(self.control)[0]

    @cached_property
    def _cells(self) -> npt.NDArray[np.bool_] | None:  # [H, W], padded
        return None if self.alpha is None else latent_cells(pad_mask(self.alpha))

    @cached_property
    def kept_alpha(self) -> Mask | None:  # [H, W]
        """How much of the result is taken at each pixel, from 0 to 1; None where all of it is."""
        if self.alpha is not None or not self.keeps_outside:
            return self.alpha
        assert self.image is not None and self.edited is not None
        return changed_alpha(_pixels(self.image), _pixels(self.edited))

    # ---- what is refused --------------------------------------------------------------------------------------------

    def _check_pictures(self) -> None:
        if self.mask is not None:
            assert not isinstance(self.mask, Image.Image)
            if self.edited is not None:
                raise InputError("mask: given beside an edited picture, expected one of the two", "mask")
            if self.image is None:
                raise InputError("image is missing: the mask says which part of it is repainted", "image")
            if self.mask.shape != size_of(self.image):
                got, expected = size_text((self.mask.shape[0], self.mask.shape[1])), size_text(size_of(self.image))
                raise InputError(
                    f"mask: got {got}, expected the size of the image, {expected}: resize the mask", "mask"
                )
        if self.edited is not None and self.image is not None and self.edited.size != self.image.size:
            got, expected = size_text(size_of(self.edited)), size_text(size_of(self.image))
            raise InputError(
                f"edited: got {got}, expected the original's size, {expected}: resize one of the two", "edited"
            )
        if self.size is None:
            return
        if self.task != "text2img" and self.only_masked is None:
            raise InputError(f"size: got {self.size} beside a picture, expected the picture's own", "size")
        if any(side % CELL or side < CELL for side in self.size):
            raise InputError(f"size: got {self.size[0]}x{self.size[1]}, expected multiples of {CELL}", "size")

    def _check_keep(self) -> None:
        if self.keep is None:
            return
        if self.keep not in KEEPS:
            raise InputError(f"keep: got {self.keep!r}, expected one of {', '.join(KEEPS)}", "keep")
        if self.task != "sdedit":
            raise InputError(f"keep: has no effect for {self.task}, only for an SDEdit: leave it out", "keep")
        if self.keep == "outside" and self.image is None:
            raise InputError("image is missing: keep outside needs the original that the edited picture shows", "image")

    def _check_shaping(self) -> None:
        for name, most in MOST_PIXELS.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise InputError(f"{name}: got {value}, expected a number of pixels from 0 to {most}", name)
            if value and self.mask is None:
                raise InputError(f"{name}: got {value} without a mask: give one, or leave it out", name)
        if self.only_masked is not None and self.mask is None:
            raise InputError("only_masked: there is no mask to paint around: give one, or leave it out", "only_masked")

    def _check_control(self) -> None:
        if self.control is None:
            return
        if self.task != "inpainting":
            raise InputError(f"control: got a picture for {self.task}, expected one for inpainting only", "control")
        assert self.image is not None
        if self.control.size != self.image.size:
            got, expected = size_text(size_of(self.control)), size_text(size_of(self.image))
            raise InputError(
                f"control: got {got}, expected the size of the image, {expected}: resize one of the two", "control"
            )
        if isinstance(self.policy, Lockstep):
            raise InputError(
                "policy: Lockstep gives latents to the pipeline, which a ControlNet's does not take: take Temporal",
                "policy",
            )

    def _check_policy(self) -> None:
        if self.policy is None:
            return
        if getattr(self.policy, "original", None) is not None:
            raise InputError(
                "policy: got latents of the original, expected none: the edit encodes the picture", "policy"
            )
        if self.task in ("img2img", "text2img"):
            raise InputError(
                f"policy: got {type(self.policy).__name__} for {self.task}, where everything is new and there is "
                "nothing to reuse: leave it out, or give a mask or an edited picture",
                "policy",
            )
        if self.task == "sdedit":
            if self.image is None:
                raise InputError(
                    "image is missing: a sparse SDEdit needs the original picture, and computes what differs from it",
                    "image",
                )
            assert self.edited is not None
            if np.array_equal(_pixels(self.image), _pixels(self.edited)):
                raise InputError("edited and image are the same: there is nothing to edit", "edited")
        steps = int(self.sampling.steps * self.sampling.strength_of(self.task))
        try:
            self.policy.plan(max(steps, 1), active=0.0)  # refuses steps by hand that do not fit, before anything runs
        except ConfigError as error:
            raise InputError(str(error), str(error).partition(":")[0]) from error


def _as_mask(mask: Image.Image | npt.NDArray[Any]) -> Mask:  # [H, W]
    try:
        return mask_from_image(mask) if isinstance(mask, Image.Image) else mask_from_array(np.asarray(mask))
    except InputError as error:
        raise InputError(str(error), "mask") from error


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8]:  # [H, W, 3]
    return np.asarray(image.convert("RGB"))


def _padded(image: Image.Image) -> Image.Image:
    """The picture, padded so that its sides are multiples of 8; logs a note where it pads."""
    padded, (height, width) = pad_to_multiple(image)
    if padded.size != image.size:
        logger.warning(
            "%dx%d is worked on as %dx%d, multiples of 8, and cut back afterwards",
            *(height, width, padded.height, padded.width),
        )
    return padded
