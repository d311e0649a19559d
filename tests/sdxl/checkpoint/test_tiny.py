"""The small checkpoints: they are made once, always the same, and can paint."""

from __future__ import annotations

import doctest
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sdxl.checkpoint import tiny as tiny_module
from sdxl.checkpoint.configs import load_shapes
from sdxl.checkpoint.load import load
from sdxl.checkpoint.tiny import tiny_weights, write_tiny
from sdxl.errors import InputError


def test_made_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGE_CACHE", str(tmp_path / "cache"))
    first = tiny_weights("sdxl-base")
    assert first.parent.parent == tmp_path / "cache" and first.name == "sd_xl_base_1.0.safetensors"
    monkeypatch.setattr(tiny_module, "write_tiny", None)
    assert tiny_weights("sdxl-base") == first


def test_an_interrupted_first_call_leaves_nothing_to_trip_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGE_CACHE", str(tmp_path))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("sdxl.checkpoint.tensors._write_all", interrupt)
        tiny_weights("sd15")
    assert load(tiny_weights("sd15"), progress=False).kind == "sd15"


def test_always_the_same_bytes_and_every_kind_another_unet(tiny: dict[str, Path], tmp_path: Path) -> None:
    again = write_tiny(tmp_path, ["sdxl-base", "sdxl-refiner"])
    assert again["sdxl-base"].read_bytes() == tiny["sdxl-base"].read_bytes()
    base, turbo, refiner = (load(tiny[f"sdxl-{name}"], progress=False) for name in ("base", "turbo", "refiner"))
    assert not base.unet.conv_in.weight.equal(turbo.unet.conv_in.weight)
    assert base.vae.decoder.conv_in.weight.equal(refiner.vae.decoder.conv_in.weight)


def test_the_topology_is_that_of_sdxl() -> None:
    full, small = load_shapes("sdxl-base"), load_shapes("sdxl-base", variant="tiny")
    for name in ("down_block_types", "up_block_types", "layers_per_block", "use_linear_projection", "in_channels"):
        assert small.parts["unet"][name] == full.parts["unet"][name]
    assert len(set(small.parts["unet"]["block_out_channels"])) == 3
    widths = [small.parts[name]["hidden_size"] for name in ("text_encoder", "text_encoder_2")]
    assert widths[0] != widths[1] and sum(widths) == small.parts["unet"]["cross_attention_dim"]
    assert len(small.parts["vae"]["block_out_channels"]) == 4
    assert small.scheduler == full.scheduler


def test_a_picture_in_about_a_second(tiny: dict[str, Path]) -> None:
    """Inpainting at 256x256 in four steps gives a picture that is finite, in range, and not of one colour."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLInpaintPipeline
    from PIL import Image

    parts = load(tiny["sdxl-base"], progress=False)
    names = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    pipe = StableDiffusionXLInpaintPipeline(
        **{name: getattr(parts, name) for name in names},
        scheduler=EulerDiscreteScheduler.from_config(parts.scheduler_config),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    image, mask = Image.new("RGB", (256, 256), (90, 120, 200)), Image.new("L", (256, 256))
    mask.paste(255, (64, 64, 192, 192))
    start = time.perf_counter()
    pixels = pipe(
        "a horse", image=image, mask_image=mask, height=256, width=256, num_inference_steps=5, strength=0.99,
        generator=torch.Generator().manual_seed(0), output_type="np",
    ).images[0]  # fmt: skip
    assert time.perf_counter() - start < 15  # about one; room for a busy machine
    assert np.isfinite(pixels).all()
    assert pixels[64:192, 64:192].std() > 0.05
    assert ((pixels > 0) & (pixels < 1)).mean() > 0.5, "saturated"


def test_unknown_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kind: got 'sd3'"):
        write_tiny(tmp_path, ["sd3"])


def test_examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIGE_CACHE", str(tmp_path))
    found = doctest.testmod(tiny_module, extraglobs={"folder": tmp_path, "load": load})
    assert found.attempted and not found.failed
