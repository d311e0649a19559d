"""Profiles one pass of a model for an edit, dense and packed: multiply-accumulates, time, memory."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sdxl.checkpoint.embedded import EMBEDDED
from sdxl.commands.inputs import Inputs, load_inputs
from sdxl.commands.settings import Settings
from sdxl.commands.weights import place
from sdxl.errors import InputError, SdxlError
from sdxl.pictures.images import pad_to_multiple
from sdxl.pictures.masks import pad_mask
from sdxl.pictures.shaping import grow_mask
from sdxl.pipelines.find import TINY, find
from sige.dtypes import named_dtype
from sige.errors import SigeError
from sige.files import check_output
from sige.sizes import Size

if TYPE_CHECKING:
    from sdxl.checkpoint.configs import Shapes
    from sige import Region
    from sige.profiling import Subject

__all__ = ["run"]

CODERS = {"profile_encoder": "vae-encoder", "profile_decoder": "vae-decoder"}
KINDS = {"sdxl-inpaint": "sdxl-inpaint", "sd15": "sd15"}  # every other model: sdxl-base
RUNS = 5
DILATION = 1
NONE = "none, this only counts"
RANDOM = "random weights of the model's shape, on whose values neither work nor time depends"


def run(settings: Settings) -> str:
    """The figures as a table; with --json they are written to a file too, under the names of `sige.profiling`."""
    if settings.only_masked is not None:
        raise InputError(
            f"--only_masked does not go with --mode {settings.mode}, which is of a whole picture: give the part "
            "itself as --init_img and --mask_path"
        )
    if settings.json is not None:
        check_output(settings.json)
    settings = place(settings)
    region = _region(load_inputs(settings), _dilation(settings), settings.grow or 0)
    if region is None:
        raise InputError(
            f"--mode {settings.mode} needs an edit: give --mask_path, or --init_img and --edited_img that differ"
        )
    profile = _profile(settings, region)
    from sige.profiling import report

    if settings.json is not None:
        report.write_json(profile, settings.json)
    return f"weights: {NONE if settings.macs_only else RANDOM}\n{report.as_text(profile)}"


def _region(inputs: Inputs, dilation: int, grow: int = 0) -> Region | None:
    """The region of the mask, grown as asked, or of the pixels that differ; None where the command names no edit."""
    from sige import Region

    if inputs.mask is not None:
        return Region.from_mask(pad_mask(grow_mask(inputs.mask, grow)), dilation=dilation)
    if inputs.image is None or inputs.edited is None:
        return None
    before, after = (np.asarray(pad_to_multiple(image)[0]) for image in (inputs.image, inputs.edited))
    return Region.from_images(before, after, dilation=dilation)


def _profile(settings: Settings, region: Region) -> dict[str, Any]:
    from sige.profiling import report

    subject = _build(settings, region.image_size, "meta")
    timed = None if settings.macs_only else partial(_build, settings, region.image_size, settings.device)
    return report.make_profile(subject, region, _facts(settings, subject), timed, settings.runs or RUNS)


def _build(settings: Settings, size: Size, device: str) -> Subject:
    """The model in the shape that the run would load, with the batch that it would have."""
    from sdxl.checkpoint.configs import load_shapes
    from sige.profiling import build

    kind = _kind(settings)
    shapes = load_shapes(kind, settings.config_path, _variant(settings))
    options: dict[str, Any] = {"device": device, "dtype": named_dtype(settings.dtype)}
    try:
        if settings.mode in CODERS:
            return build(CODERS[settings.mode], size, changes=shapes.parts["vae"], **options)
        return _build_unet(shapes, size, guided=settings.scale > 1, **options)
    except SigeError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:  # of diffusers
        why = " ".join(str(error).split())[:200]
        raise InputError(f"config_path: no {kind} can be built from it ({why}); take our own", "config_path") from error


def _build_unet(shapes: Shapes, size: Size, *, guided: bool, **options: Any) -> Subject:
    """The UNet of the shapes, on the meta device unless told otherwise; guidance takes a batch of two."""
    from sige.profiling import build

    return _with_pooled(build(shapes.kind, size, 2 if guided else 1, changes=shapes.parts["unet"], **options))


def _with_pooled(subject: Subject) -> Subject:
    """The subject with a pooled text embedding as wide as its projection expects; a tiny model has its own width."""
    added = subject.arguments.get("added_cond_kwargs")
    if added is None:
        return subject
    config: Any = subject.module.config
    times = added["time_ids"].shape[1] * config.addition_time_embed_dim
    pooled = added["text_embeds"].new_zeros(subject.batch, config.projection_class_embeddings_input_dim - times)
    return replace(subject, arguments=subject.arguments | {"added_cond_kwargs": added | {"text_embeds": pooled}})


def _kind(settings: Settings) -> str:
    """The kind of the model; turbo has the shapes of the base."""
    return "sdxl-refiner" if settings.refined else KINDS.get(settings.model, "sdxl-base")


def _variant(settings: Settings) -> str:
    """The size of the model: full, unless the run would load weights of a small copy."""
    from sdxl.checkpoint.configs import FULL_SIZE
    from sdxl.checkpoint.header import read_header
    from sdxl.checkpoint.kinds import identify

    if settings.model in (EMBEDDED, TINY):
        return settings.model
    try:
        path = find(settings.model, settings.run_type, settings.weight_path, refiner=settings.refined).path
    except SdxlError:
        return FULL_SIZE  # a profile needs no weights
    return identify(read_header(path)).variant if path.is_file() else FULL_SIZE


def _dilation(settings: Settings) -> int:
    return DILATION if settings.dilation is None else settings.dilation


def _facts(settings: Settings, subject: Subject) -> dict[str, Any]:
    region = f"{settings.init_img} against {settings.edited_img}"
    variant = _variant(settings)
    return {
        "model": subject.name if variant == "full" else f"{subject.name} ({variant})",
        "weights": "none" if settings.macs_only else "random",
        "size": f"{subject.size[0]}x{subject.size[1]}",
        "batch": subject.batch,
        "region": region if settings.mask_path is None else f"mask {settings.mask_path}",
        "dilation": _dilation(settings),
        "macs_only": settings.macs_only,
        "dtype": settings.dtype,
        "device": settings.device,
        "runs": settings.runs or RUNS,
    }
