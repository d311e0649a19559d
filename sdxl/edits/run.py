"""run: takes a request through the pipelines and returns a result.

request ─▶ pipelines enabled ─▶ (encode) ─▶ base, step by step ─▶ (refiner) ─▶ decode ─▶ crop ─▶ composite
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import sige
from sdxl.edits.calling import from_split, pipeline_arguments, tokens_of, until_split
from sdxl.edits.crop import Crop
from sdxl.edits.keep import Outside
from sdxl.edits.request import CELL, Request
from sdxl.edits.result import Result
from sdxl.edits.sparse import REFINER, Engine, PassesByComponent
from sdxl.edits.steps import OnStep, Progress, count_steps
from sdxl.edits.work import EditWork, PipelineShape
from sdxl.errors import Cancelled, InputError
from sdxl.pictures.images import crop_back
from sdxl.pictures.masks import latent_cells, pad_mask
from sdxl.pictures.seams import put_together
from sdxl.pipelines.coding import as_pixels, decode, encode, twin
from sdxl.pipelines.mended import mended, upcast

__all__ = ["run"]


def run(pipe: Any, request: Request, *, refiner: Any = None, on_step: OnStep | None = None) -> Result:
    """Runs the edit that the request asks for on a diffusers pipeline of its task, and returns the result.

    `on_step` is called with a `Step` after each step. Where it returns False or raises `sdxl.Cancelled`, the edit ends
    with `Cancelled`: nothing is decoded, recordings are freed, and the pipelines are as they were.
    """
    if request.refined != (refiner is not None):
        got = "no refiner, which the request asks for" if request.refined else "one, which the request does not ask for"
        raise InputError(f"refiner: got {got}", "refiner")
    began = perf_counter()
    request = _sized(request, pipe)
    _check_control(request, pipe)
    pipes = [pipe] if refiner is None else [pipe, refiner]
    if request.is_empty:
        assert request.image is not None
        return _result(request, pipes, request.image.copy(), {}, (), began)
    if request.only_masked is not None:
        crop = Crop.of(request)
        result = run(pipe, crop.part, refiner=refiner, on_step=on_step)
        return replace(result, image=crop.put_back(result.image))
    progress = Progress(on_step, request.picture_size, request.padded_size)
    try:
        with Engine(pipes, request.region, request.sparse_policy) as engine:
            edit = _Edit(pipe, request, refiner, engine, progress)
            image = edit.lockstep() if isinstance(engine.policy, sige.Lockstep) else edit.plain()
            passes = engine.passes()
    except Cancelled as cancelled:
        raise cancelled.with_traceback(None)  # noqa: B904  # its frames would keep latents alive
    finally:
        for one in pipes:
            one.maybe_free_model_hooks()  # as a call that ends by itself does
    if request.start is not None:
        image = crop_back(image, request.picture_size)
    if request.kept_alpha is not None:
        assert request.image is not None
        image = put_together(request.image, image, request.kept_alpha, request.match_edge)
    return _result(request, pipes, image, passes, tuple(progress.taken), began)


def _sized(request: Request, pipe: Any) -> Request:
    """The request; where the model's size is asked for, a copy at the size that the model was trained at."""
    if request.size is not None or (request.task != "text2img" and request.only_masked is None):
        return request
    side = int(pipe.unet.config.sample_size) * CELL
    return replace(request, size=(side, side))


def _check_control(request: Request, pipe: Any) -> None:
    """A control picture and a ControlNet come together."""
    if (request.control is None) == (getattr(pipe, "controlnet", None) is None):
        return
    if request.control is None:
        raise InputError("control is missing: the pipeline has a ControlNet, which follows a picture", "control")
    raise InputError("control: got a picture, but the pipeline has no ControlNet: load one, or leave it out", "control")


class _Edit:
    """One edit on its way through the pipeline, and through the refiner if there is one."""

    def __init__(self, pipe: Any, request: Request, refiner: Any, engine: Engine, progress: Progress) -> None:
        self.pipe, self.request, self.refiner = pipe, request, refiner
        self.engine, self.progress = engine, progress
        self.generator = torch.Generator("cpu").manual_seed(request.sampling.seed)
        names = {"image": request.start, "mask_image": request.mask_image}
        self.pictures = {name: picture for name, picture in names.items() if picture is not None}
        self.control = {} if request.control_image is None else {"control_image": request.control_image}

    def plain(self) -> Image.Image:
        """The picture of a dense or temporal edit: the pipelines encode and decode by themselves."""
        pictures, callback = self._keeping() if self.request.keeps_outside else (self.pictures, self.progress)
        if self.refiner is None:
            return self._base(pictures, output_type="pil", callback_on_step_end=callback)[0]  # type: ignore[no-any-return]
        options = {"output_type": "latent", "callback_on_step_end": callback, **until_split(self.request.sampling)}
        latents = self._base(pictures, **options)
        return self._refine({**self.pictures, "image": latents}, output_type="pil")[0]  # type: ignore[no-any-return]

    def lockstep(self) -> Image.Image:
        """The picture of a lockstep edit: the original runs dense and is recorded, the edit runs packed on it."""
        with upcast(self.pipe.vae):
            original, start = self._encode_both()
        pictures: dict[str, Any] = dict(self.pictures)
        if self.pipe.unet.config.in_channels == original.shape[1]:
            # Latents spare the pipeline the encoding. A UNet with the mask's channels needs the pixels under the mask.
            pictures["image"] = start
            if self.request.task == "inpainting":
                pictures["masked_image_latents"] = start  # not read, but SD 1.5's pipeline asks for them
        options = {"output_type": "latent", **until_split(self.request.sampling)}
        result = self._base(pictures, (original, start), **options)
        if self.refiner is not None:
            # After a split the refiner adds no noise: the result still holds noise that was added to the original.
            begins = result if self.request.sampling.denoising_split is None else original
            result = self._refine({**pictures, "image": result}, (original, begins), output_type="latent")
        with upcast(self.pipe.vae):
            decoded = self._decode_on(original, result)
        return self.pipe.image_processor.postprocess(decoded, output_type="pil")[0]  # type: ignore[no-any-return]

    def _keeping(self) -> tuple[dict[str, Any], Outside]:
        """What an SDEdit begins with, encoded here with the pipeline's own draws, and what keeps the outside."""
        request = self.request
        assert request.start is not None and request.kept_alpha is not None
        with upcast(self.pipe.vae):
            start = encode(self.pipe, as_pixels(self.pipe, request.start), self.generator)
        noise = torch.randn(start.shape, generator=twin(self.generator), dtype=start.dtype)
        cells = latent_cells(pad_mask(request.kept_alpha))[::CELL, ::CELL]
        inside = torch.from_numpy(cells)[None, None].to(start.device)
        return {"image": start}, Outside(self.progress, inside, start, noise.to(start.device))

    # ---- lockstep's own coding --------------------------------------------------------------------------------------

    def _encode_both(self) -> tuple[Tensor, Tensor]:  # [1, C, h, w] twice
        """Latents of the original, and of what the edit starts from, with the same draws."""
        before, after = self.request.original, self.request.start
        assert before is not None and after is not None
        pixels = [as_pixels(self.pipe, image) for image in (before, after)]
        # A UNet with the mask's channels gets no latents: its pipeline encodes by itself, with draws of its own.
        wide = self.pipe.unet.config.in_channels != self.pipe.vae.config.latent_channels
        generator = twin(self.generator) if wide else self.generator
        with self.engine.recording(self.pipe) as recording:
            original = encode(self.pipe, pixels[0], generator if before is after else twin(generator))
        if before is after:
            return original, original
        with self.engine.packed(self.pipe, recording):
            return original, encode(self.pipe, pixels[1], generator)

    def _decode_on(self, original: Tensor, result: Tensor) -> Tensor:  # [1, C, h, w] twice -> [1, 3, H, W]
        with self.engine.recording(self.pipe) as recording:
            decode(self.pipe, original)
        with self.engine.packed(self.pipe, recording):
            return decode(self.pipe, result)

    # ---- calls of the pipelines -------------------------------------------------------------------------------------

    def _base(
        self, pictures: Mapping[str, Any], latents: tuple[Tensor | None, Tensor | None] = (None, None), **options: Any
    ) -> Any:  # PIL images, or latents [1, C, h, w]
        self.progress.begin(after=self._refiner_steps())
        return self._call(self.pipe, {**pictures, **self.control}, latents, options)

    def _refine(
        self, pictures: Mapping[str, Any], latents: tuple[Tensor | None, Tensor | None] = (None, None), **options: Any
    ) -> Any:  # PIL images, or latents [1, C, h, w]
        self.progress.begin()
        return self._call(self.refiner, pictures, latents, options | from_split(self.request.sampling))

    def _refiner_steps(self) -> int:
        sampling = self.request.sampling
        return 0 if self.refiner is None else count_steps(self.refiner, sampling.steps, from_split(sampling))

    def _call(
        self,
        pipe: Any,
        pictures: Mapping[str, Any],
        latents: tuple[Tensor | None, Tensor | None],  # [1, C, h, w]: the original's, and what noise is added to
        options: Mapping[str, Any],
    ) -> Any:  # PIL images, or latents [1, C, h, w]
        request = self.request
        arguments = pipeline_arguments(pipe, request.task, request.padded_size, request.sampling)
        with self.engine.following(pipe, *latents), mended(pipe):
            arguments |= {"generator": self.generator, "callback_on_step_end": self.progress}
            return pipe(**{**arguments, **pictures, **options}).images


def _result(
    request: Request,
    pipes: Sequence[Any],
    image: Image.Image,
    passes: PassesByComponent,
    steps: tuple[int, ...],
    began: float,
) -> Result:
    seconds = perf_counter() - began
    named = zip(("", REFINER), pipes, strict=False)
    shapes = {prefix: PipelineShape.of(pipe, tokens_of(pipe, request.sampling)) for prefix, pipe in named}
    counted = EditWork(
        shapes,
        request.padded_size,
        request.region,
        request.sampling.is_guided,
        passes,
        _dense_passes(request, pipes[0], passes),
    )
    return Result(image, request.region, passes, steps, seconds, counted)


def _dense_passes(request: Request, pipe: Any, passes: PassesByComponent) -> dict[str, int]:
    """The number of passes of each component that the same edit takes where all are dense.

    Lockstep runs every UNet pass twice, once on the original. It also encodes and decodes the original once. A
    dense edit encodes as often as lockstep's pipeline encodes by itself, but at least once, and decodes once.
    """
    if not isinstance(request.sparse_policy, sige.Lockstep):
        return {name: one.calls for name, one in passes.items()}
    dense = {name: one.packed for name, one in passes.items() if name.endswith("unet")}
    wide = pipe.unet.config.in_channels != pipe.vae.config.latent_channels
    return dense | {"vae.encoder": passes["vae.encoder"].dense - 1 if wide else 1, "vae.decoder": 1}
