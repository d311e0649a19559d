"""Kept latents: they are encoded again when they are stale, and in the way in which edits encode pictures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import sdxl
from sdxl.checkpoint.load import load
from sdxl.checkpoint.tiny import tiny_weights
from sdxl.edits.sampling import Sampling
from sdxl.pipelines.load import make_pipeline
from sdxl.training.latents import Draws, Latents, kept_latents, mask_for
from sdxl.training.pictures import ScenePictures
from sdxl.training.random_masks import random_mask


@pytest.fixture
def vae() -> Any:
    return load(tiny_weights("sdxl-base"), progress=False).vae


def latents(vae: Any, path: Path, count: int = 3, **draws: Any) -> Latents:
    return kept_latents(vae, ScenePictures(count, 64), path, Draws(**draws), progress=False)


def test_examples_are_those_of_the_pictures(vae: Any, tmp_path: Path) -> None:
    kept = latents(vae, tmp_path / "x.safetensors", masks=True)
    example = kept.example(2, np.random.default_rng(0))
    assert example.latents.shape == (4, 8, 8) and example.mask is not None and example.masked is not None
    assert example.mask.shape == (1, 8, 8) and set(example.mask.unique().tolist()) <= {0.0, 1.0}
    assert example.sizes == (64, 64, 0, 0, 64, 64) and "a " in example.caption
    again = kept.example(2, np.random.default_rng(0))
    assert torch.equal(example.latents, again.latents) and example.caption == again.caption
    other = kept.example(2, np.random.default_rng(1))
    assert not torch.equal(example.latents, other.latents), "drawn anew each time"


def test_every_repeat_has_a_mask_of_its_own(vae: Any, tmp_path: Path) -> None:
    kept = latents(vae, tmp_path / "x.safetensors", masks=True, repeats=4)
    assert len(kept) == 12 and kept.mask is not None
    assert torch.equal(kept.moments[:3], kept.moments[3:6]), "scenes are always whole"
    assert len({mask.numpy().tobytes() for mask in kept.mask}) > 6
    rngs = (np.random.default_rng(5) for _ in range(2))
    first, second = (kept.example(index, rng) for index, rng in zip((1, 4), rngs, strict=True))
    assert first.caption == second.caption


CHANGES: dict[str, dict[str, Any]] = {
    "masks": {"masks": True},
    "repeats": {"repeats": 2},
    "seed": {"seed": 1},
    "number": {"count": 2},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_stale_latents_are_made_again_with_one_line(
    vae: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    path = tmp_path / "x.safetensors"
    latents(vae, path)
    before = path.stat().st_mtime_ns
    with caplog.at_level(logging.WARNING, "sdxl"):
        latents(vae, path)
        assert path.stat().st_mtime_ns == before and not caplog.records, "nothing has changed"
        latents(vae, path, **change)
    assert path.stat().st_mtime_ns != before
    assert len(caplog.records) == 1 and "encoding anew" in caplog.text and str(path) in caplog.text


def test_latents_of_another_vae_or_of_no_origin_are_made_again(
    vae: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.safetensors"
    before = latents(vae, path).moments
    with torch.no_grad():
        vae.quant_conv.bias[0] += 1
    assert not torch.equal(latents(vae, path).moments, before)
    path.write_bytes(b"cut off")
    assert len(latents(vae, path)) == 3
    assert len(caplog.records) == 2


def test_an_interrupted_encoding_leaves_nothing(vae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(vae, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        latents(vae, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_masks_are_whole_latent_cells() -> None:
    for seed in range(20):
        mask = mask_for(np.random.default_rng(seed), (64, 96))[0]
        cells = mask.view(8, 8, 12, 8).transpose(1, 2).flatten(2)  # [8, 12, 64]
        assert torch.equal(cells.amin(dim=2), cells.amax(dim=2))
        pixels = torch.from_numpy(random_mask(np.random.default_rng(seed), 64, 96))
        assert mask[pixels].all(), "all that was drawn is painted anew"


def test_training_shows_the_unet_what_an_edit_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the same picture and mask, the encoder gets the same pixels and the UNet the same mask."""
    parts = load(tiny_weights("sdxl-inpaint"), progress=False)
    pictures, encoded = ScenePictures(1, 64), list[Tensor]()
    encode = parts.vae.encode
    monkeypatch.setattr(parts.vae, "encode", lambda pixels: (encoded.append(pixels), encode(pixels))[1])
    seed = next(s for s in range(50) if 0 < random_mask(np.random.default_rng([8, s, 0]), 64, 64).mean() < 0.5)
    kept = kept_latents(parts.vae, pictures, tmp_path / "x.safetensors", Draws(masks=True, seed=seed), progress=False)
    trained, inputs = encoded[1], list[Tensor]()
    encoded.clear()

    pipe = make_pipeline(parts, "inpainting")
    pipe.set_progress_bar_config(disable=True)
    forward = parts.unet.forward
    monkeypatch.setattr(parts.unet, "forward", lambda x, *a, **k: (inputs.append(x), forward(x, *a, **k))[1])
    pixels = pictures.picture(0, np.random.default_rng(0)).pixels
    image = Image.fromarray(((pixels.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())
    mask = random_mask(np.random.default_rng([8, seed, 0]), 64, 64)
    sdxl.edit(pipe, image, mask=mask, sampling=Sampling("a ball", steps=1))
    assert any(torch.allclose(pixels, trained, atol=1e-6) for pixels in encoded), "the masked picture"
    assert kept.mask is not None and torch.equal(inputs[0][0, 4], kept.mask[0, 0].float())
