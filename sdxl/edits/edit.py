"""The edits: inpainting and SDEdit, dense and sparse, on diffusers' own pipelines.

picture, mask ─ pad to multiples of 8 ─▶ region ─▶ sige.enable(pipe, config), handle.edit(region)
    ─▶ pipe(…) as it is ─▶ (refiner) ─▶ decode ─▶ crop ─▶ composite: outside the mask the input's own pixels
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

import sige
from sdxl.edits.sampling import Sampling, pipeline_arguments
from sdxl.errors import InputError
from sdxl.pictures.images import crop_back, pad_to_multiple
from sdxl.pictures.masks import (
    check_mask,
    composite,
    is_empty,
    is_full,
    latent_cells,
    mask_from_array,
    mask_from_image,
    pad_mask,
)
from sdxl.pipelines.coding import as_pixels, decode, encode, spared_encoding, twin, upcast
from sdxl.pipelines.mended import own_negative_crop
from sige.sizes import Size

__all__ = ["Sampling", "edit", "img2img", "sdedit", "text2img"]

logger = logging.getLogger(__name__)

Latents = tuple[Tensor | None, Tensor | None]  # [1, C, h, w]: the original's, and what the edit starts from
REFINER_STRENGTH = 0.3  # of a refiner that follows a finished picture


def edit(
    pipe: Any,
    image: Image.Image,
    *,
    mask: Image.Image | npt.NDArray[Any],  # [H, W]; white repaints, grey blends
    sampling: Sampling,
    config: sige.EditConfig | None = None,
    refiner: Any = None,
) -> Image.Image:
    """Inpainting: the mask's pixels are painted anew, all others stay as they are bit for bit.

    With a configuration the passes are sparse, without one every pass is diffusers' own dense one.
    """
    alpha = mask_from_image(mask) if isinstance(mask, Image.Image) else mask_from_array(np.asarray(mask))
    check_mask(alpha, (image.height, image.width))
    if is_empty(alpha):
        return image.copy()
    if is_full(alpha):
        config = None  # there is nothing to take from a recording
    padded = _padded(image)
    cells = latent_cells(pad_mask(alpha))
    region = sige.Region.from_mask(cells, dilation=config.dilates_by if config else 0)
    picture = {"image": padded, "mask_image": Image.fromarray(cells.astype(np.uint8) * 255)}
    size = (padded.height, padded.width)
    run = _Run(pipe, "inpainting", sampling, config, region, size, refiner)
    result = run.lockstep(padded, padded, picture) if run.is_lockstep else run.plain(picture)
    return composite(image, crop_back(result, (image.height, image.width)), alpha)


def sdedit(
    pipe: Any,
    original: Image.Image | None,
    edited: Image.Image,
    *,
    sampling: Sampling,
    config: sige.EditConfig | None = None,
    refiner: Any = None,
) -> Image.Image:
    """SDEdit: noise is added to the edited picture and removed under the prompt.

    With a configuration only what differs from the original is computed at every step.
    """
    padded = _padded(edited)
    size = (padded.height, padded.width)
    region = sige.Region.full(*size)
    before = padded
    if config is not None:
        if original is None:
            raise InputError("a sparse SDEdit needs the original picture: what differs from it is what is computed")
        if original.size != edited.size:
            raise InputError(f"the edited picture is {edited.size}, expected the original's size, {original.size}")
        before = _padded(original)
        region = sige.Region.from_images(
            np.asarray(before.convert("RGB")), np.asarray(padded.convert("RGB")), dilation=config.dilates_by
        )
        if not region.ratio(*size):
            raise InputError("the original and the edited picture are the same: there is nothing to edit")
    picture = {"image": padded}
    run = _Run(pipe, "sdedit", sampling, config, region, size, refiner)
    result = run.lockstep(before, padded, picture) if run.is_lockstep else run.plain(picture)
    return crop_back(result, (edited.height, edited.width))


def img2img(pipe: Any, image: Image.Image, *, sampling: Sampling, refiner: Any = None) -> Image.Image:
    """Image to image, dense."""
    return sdedit(pipe, None, image, sampling=sampling, refiner=refiner)


def text2img(pipe: Any, size: Size, *, sampling: Sampling, refiner: Any = None) -> Image.Image:
    """Text to image, dense."""
    if size[0] % 8 or size[1] % 8:
        raise InputError(f"size: got {size[0]}x{size[1]}, expected multiples of 8")
    return _Run(pipe, "text2img", sampling, None, sige.Region.full(*size), size, refiner).plain({})


def _padded(image: Image.Image) -> Image.Image:
    """The picture with sides that are multiples of 8; said where they were not."""
    padded, (height, width) = pad_to_multiple(image)
    if padded.size != image.size:
        logger.warning(
            "%dx%d is worked on as %dx%d, multiples of 8, and cut back afterwards",
            *(height, width, padded.height, padded.width),
        )
    return padded


@dataclass
class _Run:
    """One edit on its way through the pipeline, and through the refiner if there is one."""

    pipe: Any
    task: str
    sampling: Sampling
    config: sige.EditConfig | None
    region: sige.Region
    size: Size
    refiner: Any

    def __post_init__(self) -> None:
        self.generator = torch.Generator("cpu").manual_seed(self.sampling.seed)
        if self.sampling.denoising_split is not None and self.refiner is None:
            raise InputError("denoising_split says where the refiner takes over, and there is no refiner")

    @property
    def is_lockstep(self) -> bool:
        return self.config is not None and self.config.policy == "lockstep"

    @property
    def _exact(self) -> bool:
        return self.config is None or self.config.exact_statistics

    def plain(self, picture: dict[str, Any]) -> Image.Image:
        """Dense and temporal: the pipeline from end to end."""
        if self.refiner is None:
            return self._sample(self.pipe, picture, output_type="pil")[0]  # type: ignore[no-any-return]
        latents = self._sample(self.pipe, picture, output_type="latent", **self._until_split())
        picture = {**picture, "image": latents}
        return self._sample(self.refiner, picture, output_type="pil", **self._from_split())[0]  # type: ignore[no-any-return]

    def lockstep(self, before: Image.Image, after: Image.Image, picture: dict[str, Any]) -> Image.Image:
        """Encodes, samples and decodes the original dense, and the edit packed on it."""
        with upcast(self.pipe.vae):
            original, start = self._encode_both(before, after)
        latents = (original, start)
        if self.pipe.unet.config.in_channels == original.shape[1]:
            # An inpainting UNet's pipeline needs the pixels under the mask; the others' need not, but SD 1.5's asks.
            more = {"masked_image_latents": start} if self.task == "inpainting" else {}
            picture = {**picture, **more, "image": start}
        result = self._sample(self.pipe, picture, latents, output_type="latent", **self._until_split())
        if self.refiner is not None:
            # Behind a split no noise is added: what there is was added to the original.
            begins = result if self.sampling.denoising_split is None else original
            latents = (original, begins)
            options = self._from_split()
            result = self._sample(self.refiner, {**picture, "image": result}, latents, output_type="latent", **options)
        with upcast(self.pipe.vae):
            decoded = self._decode_on(original, result)
        return self.pipe.image_processor.postprocess(decoded, output_type="pil")[0]  # type: ignore[no-any-return]

    def _encode_both(self, before: Image.Image, after: Image.Image) -> tuple[Tensor, Tensor]:  # [1, C, h, w] twice
        """Latents of the original, and of what the edit starts from, with the same draws."""
        pixels = [as_pixels(self.pipe, image) for image in (before, after)]
        # What the pipeline is not given it encodes by itself, with draws of its own.
        wide = self.pipe.unet.config.in_channels != self.pipe.vae.config.latent_channels
        generator = twin(self.generator) if wide else self.generator
        with _enabled(self.pipe, self.config) as handle:
            with handle.record() as recording:
                original = encode(self.pipe, pixels[0], generator if before is after else twin(generator))
            if before is after:
                return original, original
            with handle.edit(self.region, blend=[(recording, 1.0)], exact_statistics=self._exact):
                return original, encode(self.pipe, pixels[1], generator)

    def _decode_on(self, original: Tensor, result: Tensor) -> Tensor:  # [1, C, h, w] twice -> [1, 3, H, W]
        with _enabled(self.pipe, self.config) as handle:
            with handle.record() as recording:
                decode(self.pipe, original)
            with handle.edit(self.region, blend=[(recording, 1.0)], exact_statistics=self._exact):
                return decode(self.pipe, result)

    # ---- what a pipeline is called with -----------------------------------------------------------------------------

    def _sample(
        self, pipe: Any, picture: dict[str, Any], latents: Latents = (None, None), **options: Any
    ) -> Any:  # PIL images, or latents [1, C, h, w]
        """The pipeline as it is, inside `handle.edit` where there is a configuration."""
        with _following(pipe, self.config, self.region, latents), own_negative_crop(pipe), spared_encoding(pipe):
            arguments = pipeline_arguments(pipe, self.task, self.size, self.sampling) | {"generator": self.generator}
            return pipe(**{**arguments, **picture, **options}).images

    def _until_split(self) -> dict[str, Any]:
        split, steps = self.sampling.denoising_split, self.sampling.steps
        if split is None:
            return {}
        strength = self.sampling.strength_of(self.task)
        if int(steps * (strength + split - 1)) < 1 or int(steps * (1 - split)) < 1:
            raise InputError(
                f"denoising_split {split} of {steps} steps at strength {strength} leaves none for the base or for the "
                "refiner: raise the steps, or move the split"
            )
        return {"denoising_end": split}

    def _from_split(self) -> dict[str, Any]:
        split, steps = self.sampling.denoising_split, self.sampling.steps
        if split is not None:
            return {"denoising_start": split}
        if int(steps * REFINER_STRENGTH) < 1:
            raise InputError(
                f"the refiner takes {REFINER_STRENGTH:.0%} of {steps} steps, which leaves none: take 4 or more"
            )
        return {"strength": REFINER_STRENGTH}


# ---- the engine ------------------------------------------------------------------------------------------------------


@contextmanager
def _enabled(pipe: Any, config: sige.EditConfig | None) -> Iterator[sige.Handle]:
    """The pipeline enabled; afterwards it is as it was, also where the caller had enabled it before."""
    before = sige.handle_of(pipe)
    configured = before.config if before else None
    handle = sige.enable(pipe, config)
    try:
        yield handle
    finally:
        handle.config = configured
        if before is None:
            handle.disable()


@contextmanager
def _following(pipe: Any, config: sige.EditConfig | None, region: sige.Region, latents: Latents) -> Iterator[None]:
    """The policy follows the pipeline's steps; without a configuration nothing does."""
    if config is None:
        yield
        return
    with _enabled(pipe, config) as handle, handle.edit(region, original=latents[0], start=latents[1]):
        yield
