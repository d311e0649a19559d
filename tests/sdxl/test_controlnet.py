"""Inpainting with a ControlNet: in Python and on the command line, dense and sparse, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image

import sige
from sdxl.commands.main import main
from sdxl.edits.edit import edit, text2img
from sdxl.errors import CheckpointError, InputError
from sdxl.pictures.png import read_settings
from sdxl.pipelines.load import load_pipeline
from sdxl.sessions.session import Session
from tests.sdxl.edits import SIDE, drawn, load, picture, rectangle, sampling

MODELS = ("sdxl", "sd15", "sdxl-inpaint")
INPAINT = ["--prompt", "a horse", "--init_img", "before.png", "--mask_path", "mask.npy", "--ddim_steps", "4"]


def make_controlnet(unet: Any, folder: Path) -> Path:
    """A ControlNet of random weights for the UNet; as it is made, its last layers are zero and it steers nothing."""
    model = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * max(parameter[0].numel(), 8) ** -0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(project_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("controlnets")
    sources = {"sdxl": "sdxl", "sd15": "sd15"}
    made = {name: make_controlnet(load(project_folder, "inpainting", model=model).unet, base / name)
            for name, model in sources.items()}  # fmt: skip
    return made | {"sdxl-inpaint": made["sdxl"]}


def controlled(project_folder: Path, folders: dict[str, Path], model: str, **more: Any) -> Any:
    where: dict[str, Any] = {"weight_path": project_folder / "pretrained", "config_path": project_folder / "configs"}
    pipe = load_pipeline(model, controlnet=folders[model], dtype=torch.float32, **where, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipes(project_folder: Path, folders: dict[str, Path]) -> dict[str, Any]:
    return {model: controlled(project_folder, folders, model) for model in MODELS}


def edges(width: int = SIDE, height: int = SIDE) -> Image.Image:
    return Image.fromarray(np.asarray(picture(width, height)) // 128 * 255)


@pytest.mark.parametrize("model", MODELS)
def test_the_picture_follows_another_one(pipes: dict[str, Any], model: str) -> None:
    pipe, mask = pipes[model], rectangle()
    given: dict[str, Any] = {"mask": mask, "sampling": sampling()}
    one = np.asarray(edit(pipe, picture(), control=edges(), **given).image)
    other = np.asarray(edit(pipe, picture(), control=drawn(), **given).image)
    weak = np.asarray(edit(pipe, picture(), control=edges(), mask=mask, sampling=sampling(control_scale=0.1)).image)
    assert not np.array_equal(one, other) and not np.array_equal(one, weak)
    assert np.array_equal(one[mask == 0], np.asarray(picture())[mask == 0])


@pytest.mark.parametrize("model", MODELS)
def test_sparse_runs_follow_it_too(pipes: dict[str, Any], model: str) -> None:
    pipe = pipes[model]
    given: dict[str, Any] = {"mask": rectangle(), "sampling": sampling(), "control": edges()}
    dense = np.asarray(edit(pipe, picture(), **given).image)
    every = edit(pipe, picture(), policy=sige.Temporal(dense_steps=5), **given)
    some = edit(pipe, picture(), policy=sige.Temporal(dense_steps=2), **given)
    assert np.array_equal(np.asarray(every.image), dense)
    assert some.passes["unet"].packed == 3
    inside, after = rectangle() == 1, np.asarray(some.image).astype(int)
    other = np.asarray(edit(pipe, picture(), mask=rectangle(), sampling=sampling(seed=8), control=edges()).image)
    assert np.abs(after - dense)[inside].mean() < np.abs(other.astype(int) - dense)[inside].mean() / 2


def test_only_the_part_around_the_mask(pipes: dict[str, Any]) -> None:
    """The ControlNet follows the part of its picture that lies under the part that is painted."""
    wide, mask = picture(256, 192), rectangle(256, 192)
    given: dict[str, Any] = {"mask": mask, "sampling": sampling(), "only_masked": 8}
    made = [
        np.asarray(edit(pipes["sdxl"], wide, control=control, **given).image) for control in (edges(256, 192), wide)
    ]
    assert not np.array_equal(*made)
    assert all(np.array_equal(one[mask == 0], np.asarray(wide)[mask == 0]) for one in made)


def test_a_refiner_follows_nothing(pipes: dict[str, Any], project_folder: Path) -> None:
    refiner = load(project_folder, "inpainting", refiner=True)
    given: dict[str, Any] = {"mask": rectangle(), "sampling": sampling(), "refiner": refiner}
    assert edit(pipes["sdxl"], picture(), control=edges(), **given).steps == (5, 1)


def test_long_weighted_prompts(pipes: dict[str, Any]) -> None:
    for model in ("sdxl", "sd15"):
        asked = sampling(prompt="a (red:1.3) ball " * 30, clip_skip=1)
        made = edit(pipes[model], picture(), mask=rectangle(), sampling=asked, control=edges())
        assert made.steps == (5,)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "control is missing: the pipeline has a ControlNet"),
        ({"control": edges(32, 32)}, "control: got 32 high x 32 wide, expected the size of the image"),
        ({"control": edges(), "policy": sige.Lockstep()}, "policy: Lockstep gives latents"),
    ],
)
def test_what_does_not_go_together(pipes: dict[str, Any], said: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        edit(pipes["sdxl"], picture(), mask=rectangle(), sampling=sampling(), **said)


def test_a_control_picture_needs_a_controlnet(project_folder: Path) -> None:
    with pytest.raises(InputError, match="control: got a picture, but the pipeline has no ControlNet"):
        edit(load(project_folder, "inpainting"), picture(), mask=rectangle(), sampling=sampling(), control=edges())


def test_other_tasks_and_sessions_have_none(
    pipes: dict[str, Any], project_folder: Path, folders: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match="controlnet: got one for text2img, expected inpainting"):
        controlled(project_folder, folders, "sdxl", task="text2img")
    with pytest.raises(InputError, match="control is missing"):
        text2img(pipes["sdxl"], (64, 64), sampling=sampling())
    with pytest.raises(InputError, match="session: the pipeline has a ControlNet"):
        Session(pipes["sdxl"], picture())


def test_a_controlnet_of_another_family_is_refused(project_folder: Path, folders: dict[str, Path]) -> None:
    swapped = {"sdxl": folders["sd15"]}
    with pytest.raises(CheckpointError, match="is a ControlNet of block_out_channels .*, but the model has"):
        controlled(project_folder, swapped, "sdxl")


def test_folders_that_hold_no_whole_controlnet(project_folder: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def refused(message: str, error: type[Exception] = CheckpointError) -> None:
        with pytest.raises(error, match=message) as caught:
            controlled(project_folder, {"sdxl": tmp_path}, "sdxl")
        assert "\n" not in str(caught.value)

    refused("has no config.json", InputError)
    config = json.loads((folders["sdxl"] / "config.json").read_text())
    weights = load_file(folders["sdxl"] / "diffusion_pytorch_model.safetensors")
    name = next(iter(weights))
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused("has no diffusion_pytorch_model.safetensors")
    save_file({key: tensor for key, tensor in weights.items() if key != name},
              tmp_path / "diffusion_pytorch_model.safetensors")  # fmt: skip
    refused(f"is no whole ControlNet checkpoint: 1 of .* keys missing: {name}")
    (tmp_path / "config.json").write_text(json.dumps(config | {"_class_name": "ControlNetUnionModel"}))
    refused("is a ControlNetUnionModel, expected a ControlNetModel")


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run_type", ["original", "sige"])
@pytest.mark.parametrize("model", ["sdxl", "sd15"])
def test_the_command_line(
    model: str,
    run_type: str,
    project: Path,
    folders: dict[str, Path],
    tmp_path: Path,
    pixels: Callable[[Path], bytes],
) -> None:
    def made(*words: str) -> bytes:
        out = tmp_path / "out.png"
        base = [*INPAINT, "--model", model, "--run_type", run_type, "--seed", "5", "--output_path", str(out)]
        assert main([*base, *words]) == 0
        return pixels(out)

    control = ["--controlnet", str(folders[model]), "--control_image", "other.png"]
    first = made(*control)
    assert first != made() and first != made(*control, "--control_scale", "0.3")
    assert first != made(*control[:-1], "edited.png")
    again = ["--from_png", str(tmp_path / "out.png"), "--output_path", str(tmp_path / "again.png")]
    assert main(again) == 2, "a picture must not choose what is loaded"
    assert main([*again, "--trust_png"]) == 0
    assert pixels(tmp_path / "again.png") == pixels(tmp_path / "out.png")
    assert read_settings(tmp_path / "out.png")["controlnet"] == str(folders[model])
