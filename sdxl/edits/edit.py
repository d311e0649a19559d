"""The verbs: edit, sdedit, img2img, text2img. Each makes a request and runs it."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from PIL import Image

import sige
from sdxl.edits.request import Request
from sdxl.edits.result import Result
from sdxl.edits.run import run
from sdxl.edits.sampling import Sampling
from sdxl.edits.steps import OnStep
from sige.sizes import Size

__all__ = ["edit", "img2img", "sdedit", "text2img"]


def edit(
    pipe: Any,
    image: Image.Image,
    *,
    mask: Image.Image | npt.NDArray[Any],  # [H, W]; white repaints, grey blends
    sampling: Sampling,
    policy: sige.Policy | None = None,
    refiner: Any = None,
    grow: int = 0,
    mask_blur: int = 0,
    match_edge: int = 0,
    only_masked: int | None = None,
    control: Image.Image | None = None,
    on_step: OnStep | None = None,
) -> Result:
    """Inpainting: the mask's pixels are painted anew, all others stay as they are bit for bit.

    With a policy the passes are sparse, without one every pass is diffusers' own dense one. The mask grows by `grow`
    pixels, and its edge turns soft over `mask_blur` pixels inwards. What is painted is often a shade off: with
    `match_edge=24` it meets the picture at the mask's edge, and is as it was painted from 24 pixels inwards on.
    `only_masked=64` paints only the part around the mask, with 64 pixels of context, at the model's size: for pictures
    larger than the model likes. `control` is the picture that the pipeline's ControlNet follows.
    """
    shaped: dict[str, Any] = {"grow": grow, "mask_blur": mask_blur, "match_edge": match_edge}
    shaped |= {"only_masked": only_masked, "control": control}
    request = Request(sampling, image=image, mask=mask, policy=policy, refined=refiner is not None, **shaped)
    return run(pipe, request, refiner=refiner, on_step=on_step)


def sdedit(
    pipe: Any,
    image: Image.Image | None,
    edited: Image.Image,
    *,
    sampling: Sampling,
    policy: sige.Policy | None = None,
    keep: str | None = None,  # outside, nothing; None: outside with a policy
    refiner: Any = None,
    on_step: OnStep | None = None,
) -> Result:
    """SDEdit: noise is added to the edited picture and removed under the prompt.

    With a policy only what differs from the original `image` is computed at every step. With `keep="outside"` the
    original stays bit for bit where the edited picture is like it, but for a soft margin; with `keep="nothing"` the
    whole picture may change, as in a dense SDEdit.
    """
    request = Request(sampling, image=image, edited=edited, policy=policy, refined=refiner is not None, keep=keep)
    return run(pipe, request, refiner=refiner, on_step=on_step)


def img2img(
    pipe: Any, image: Image.Image, *, sampling: Sampling, refiner: Any = None, on_step: OnStep | None = None
) -> Result:
    """Image to image, dense."""
    request = Request(sampling, image=image, refined=refiner is not None)
    return run(pipe, request, refiner=refiner, on_step=on_step)


def text2img(
    pipe: Any,
    size: Size | None = None,
    *,
    sampling: Sampling,
    refiner: Any = None,
    on_step: OnStep | None = None,
) -> Result:
    """Text to image, dense; `size` None means the size that the model was trained at."""
    request = Request(sampling, size=size, refined=refiner is not None)
    return run(pipe, request, refiner=refiner, on_step=on_step)
