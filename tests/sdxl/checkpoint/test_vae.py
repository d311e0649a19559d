"""Another VAE in the place of a checkpoint's: every layout, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sdxl.checkpoint.keys import make_entries
from sdxl.checkpoint.load import Parts, load
from sdxl.errors import CheckpointError, InputError

QUIET: dict[str, Any] = {"progress": False, "tokenizers": False}


@pytest.fixture
def other(original: Callable[[str], Parts]) -> Any:
    """A VAE of the small base's shapes with weights of its own."""
    vae = deepcopy(original("sdxl-base").vae)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(0.5)
    return vae


def in_other_names(vae: Any, prefix: str = "") -> dict[str, Tensor]:
    """The weights under the names of the first programs."""
    state = vae.state_dict()
    entries = make_entries({"vae": vae}, {"vae": prefix})
    return {entry.file_key: state[entry.model_keys[0]].reshape(entry.shape).contiguous() for entry in entries}


def as_folder(vae: Any, folder: Path) -> Path:
    vae.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("layout", ["plain", "prefixed", "diffusers", "folder", "folder of a model"])
def test_every_layout_takes_the_place(layout: str, other: Any, tiny: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    if layout == "plain":
        save_file(in_other_names(other), path)
    elif layout == "prefixed":
        save_file(in_other_names(other, "first_stage_model.") | {"model_ema.decay": torch.ones(1)}, path)
    elif layout == "diffusers":
        save_file(other.state_dict(), path)
    else:
        path = tmp_path / "vae"
        as_folder(other, path if layout == "folder" else path / "vae")
    own = load(tiny["sdxl-base"], **QUIET)
    parts = load(tiny["sdxl-base"], vae=path, **QUIET)
    for model, expected in ((parts.vae, other), (parts.unet, own.unet)):
        found = model.state_dict()
        assert all(found[name].equal(tensor) for name, tensor in expected.state_dict().items())


def test_a_file_that_is_no_vae_for_this_model_is_refused_in_one_line(
    other: Any, tiny: dict[str, Path], tmp_path: Path
) -> None:
    weights = in_other_names(other)
    lacking = {name: tensor for name, tensor in weights.items() if name != "decoder.conv_out.bias"}
    wide = {
        name: torch.cat([tensor, tensor]) if name == "decoder.conv_out.bias" else tensor
        for name, tensor in weights.items()
    }
    cases = (
        ({"x": torch.zeros(1)}, "is no VAE"),
        (lacking, "is no whole VAE checkpoint: 1 of .* keys missing: decoder.conv_out.bias"),
        (wide, "1 of the wrong shape: decoder.conv_out.bias has"),
        (weights | {"extra": torch.zeros(1)}, "1 unexpected: extra"),
    )
    for tensors, message in cases:
        save_file(tensors, tmp_path / "vae.safetensors")
        with pytest.raises(CheckpointError, match=message) as caught:
            load(tiny["sdxl-base"], vae=tmp_path / "vae.safetensors", **QUIET)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="is a whole checkpoint, expected a VAE"):
        load(tiny["sdxl-base"], vae=tiny["sdxl-turbo"], **QUIET)
    with pytest.raises(InputError, match="does not exist"):
        load(tiny["sdxl-base"], vae=tmp_path / "none", **QUIET)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("_class_name", "AutoencoderTiny", "is a AutoencoderTiny, expected an AutoencoderKL"),
        ("scaling_factor", 0.5, "is a VAE of scaling_factor 0.5, expected"),
        ("latent_channels", "many", "no vae can be built from it"),
    ],
)
def test_a_folder_for_another_model_is_refused(
    key: str, value: Any, message: str, other: Any, tiny: dict[str, Path], tmp_path: Path
) -> None:
    file = as_folder(other, tmp_path / "vae") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=message):
        load(tiny["sdxl-base"], vae=tmp_path / "vae", **QUIET)


def test_a_folder_without_weights_is_refused(other: Any, tiny: dict[str, Path], tmp_path: Path) -> None:
    folder = as_folder(other, tmp_path / "vae")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no diffusion_pytorch_model.safetensors"):
        load(tiny["sdxl-base"], vae=folder, **QUIET)


def test_nothing_is_read_before_the_header_is_checked(
    other: Any, tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "vae.safetensors")

    def fill(*_: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("sdxl.checkpoint.load.fill", fill)
    with pytest.raises(CheckpointError, match="is no VAE"):
        load(tiny["sdxl-base"], vae=tmp_path / "vae.safetensors", **QUIET)
