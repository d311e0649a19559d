"""The switches for memory: how attention is computed, and models that wait on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor

import sige
from sdxl.commands.main import main
from sdxl.edits.edit import edit
from sdxl.errors import InputError
from sdxl.pipelines.load import load_pipeline
from sdxl.pipelines.memory import set_attention, set_offload
from tests.sdxl.edits import load, picture, rectangle, sampling

PROCESSORS = {"sdpa": AttnProcessor2_0, "math": AttnProcessor, "sliced": SlicedAttnProcessor}
INPAINT = ["--prompt", "a horse", "--init_img", "before.png", "--mask_path", "mask.npy", "--ddim_steps", "2"]


@pytest.mark.parametrize("attention", PROCESSORS)
@pytest.mark.parametrize("policy", [None, sige.Temporal(dense_steps=2)], ids=["dense", "sparse"])
def test_every_way_gives_the_same_picture(attention: str, policy: sige.Policy | None, project_folder: Path) -> None:
    pipe = load(project_folder, "inpainting")
    given: dict[str, Any] = {"mask": rectangle(), "sampling": sampling(), "policy": policy}
    before = np.asarray(edit(pipe, picture(), **given).image).astype(int)
    set_attention(pipe, attention)
    assert {type(one) for one in pipe.unet.attn_processors.values()} == {PROCESSORS[attention]}
    after = np.asarray(edit(pipe, picture(), **given).image)
    assert np.abs(after - before).max() <= 1  # of 255: the same sums in another order


def test_the_vae_follows(project_folder: Path) -> None:
    pipe = load(project_folder, "inpainting")
    set_attention(pipe, "math")
    assert {type(one) for one in pipe.vae.attn_processors.values()} == {AttnProcessor}


def test_the_command_line_sets_it(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("sdxl.pipelines.load.set_attention", lambda pipe, attention: seen.append(attention))
    for attention in ("auto", "sliced"):
        assert main([*INPAINT, "--attention", attention, "--output_path", str(tmp_path / "out.png")]) == 0
    assert seen == ["auto", "sliced"]


def test_names_that_do_not_exist(project_folder: Path) -> None:
    pipe = load(project_folder, "inpainting")
    with pytest.raises(InputError, match="attention: got 'flash', expected one of auto"):
        set_attention(pipe, "flash")
    with pytest.raises(InputError, match="offload: got 'all', expected one of none"):
        set_offload(pipe, "all", "cuda")


def test_offloading_is_cuda_s(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="offload: got model with the device cpu, expected cuda"):
        load_pipeline("tiny", task="sdedit", offload="model")
    if torch.cuda.is_available():
        pytest.skip("here --device auto means cuda")
    assert main([*INPAINT, "--offload", "model", "--output_path", str(tmp_path / "out.png")]) == 2
    assert "--offload model has no effect on the CPU, which --device auto means here" in capsys.readouterr().err


def test_offloading_keeps_the_models_on_the_cpu_until_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU this tests which calls are made: the weights stay on the CPU, and diffusers gets the device."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    calls: list[tuple[str, str]] = []

    def enable(pipe: Any, *, device: str) -> None:
        calls.append((pipe.unet.device.type, device))

    monkeypatch.setattr(StableDiffusionXLImg2ImgPipeline, "enable_model_cpu_offload", enable)
    load_pipeline("tiny", task="sdedit", device="cuda:1", dtype=torch.float32, offload="model")
    assert calls == [("cpu", "cuda:1")]
