"""The latents that the pipelines encode, and the random numbers that they draw."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdxl.checkpoint.load import load
from sdxl.checkpoint.tiny import tiny_weights
from sdxl.pipelines.load import make_pipeline
from sdxl.pipelines.mended import spared_encoding
from sdxl.pipelines.schedulers import make_scheduler

SIDE = 64


def inpainting(kind: str) -> Any:
    pipe = make_pipeline(load(tiny_weights(kind), progress=False), "inpainting")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def paint(pipe: Any, **more: Any) -> np.ndarray:
    rng = np.random.default_rng(0)
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[16:40, 24:56] = 255
    pictures = {
        "image": Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)),
        "mask_image": Image.fromarray(mask),
    }
    options = {"height": SIDE, "width": SIDE, "strength": 1.0, "num_inference_steps": 3, "guidance_scale": 2.0}
    generator = torch.Generator().manual_seed(5)
    return np.asarray(pipe("a house", **pictures, **options, generator=generator, **more).images[0])


def encodings(pipe: Any) -> list[int]:
    calls: list[int] = []
    pipe.vae.encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("kind", ["sdxl-base", "sd15"])
@pytest.mark.parametrize("scheduler", ["ddim", "euler-ancestral"])
def test_what_nobody_reads_is_not_encoded_and_the_picture_is_the_same(kind: str, scheduler: str) -> None:
    pipe = inpainting(kind)
    pipe.scheduler = make_scheduler(scheduler, kind, dict(pipe.scheduler.config))
    calls = encodings(pipe)
    plain = paint(pipe)
    assert len(calls) == 2
    with spared_encoding(pipe):
        spared = paint(pipe)
    assert len(calls) == 3 and np.array_equal(plain, spared)


def test_a_unet_that_takes_the_masked_picture_gets_it() -> None:
    pipe = inpainting("sdxl-inpaint")
    calls = encodings(pipe)
    plain = paint(pipe)
    before = len(calls)
    with spared_encoding(pipe):
        assert np.array_equal(paint(pipe), plain)
    assert len(calls) == 2 * before


def test_afterwards_everything_is_as_it_was_also_after_an_error() -> None:
    pipe = inpainting("sdxl-base")
    own = pipe.vae.encode = partial(type(pipe.vae).encode, pipe.vae)  # somebody's wrapper
    with pytest.raises(ZeroDivisionError), spared_encoding(pipe):
        paint(pipe)
        raise ZeroDivisionError
    assert pipe.vae.encode is own and "prepare_mask_latents" not in vars(pipe)
