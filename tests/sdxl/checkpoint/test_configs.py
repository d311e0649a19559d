"""Configs of strangers: a damaged one is refused in one line, and none can ask for a model that takes minutes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from sdxl.checkpoint import bounds
from sdxl.checkpoint.bounds import check_bounds
from sdxl.checkpoint.configs import KINDS, load_shapes
from sdxl.checkpoint.folder import open_folder
from sdxl.checkpoint.load import load
from sdxl.checkpoint.models import build_part, build_scheduler
from sdxl.checkpoint.save import save_folder
from sdxl.commands.main import main
from sdxl.errors import CheckpointError, InputError, SdxlError
from sige.config_files import config_folder


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A copy of the project's own configs."""
    return Path(shutil.copytree(config_folder(), tmp_path / "configs"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["full", "tiny"])
def test_our_own_are_within_the_bounds(kind: str, variant: str) -> None:
    assert load_shapes(kind, variant=variant).parts["unet"]["in_channels"] in (4, 9)


DAMAGED = {
    "no yaml": ("model: [", "no YAML"),
    "bytes": ("\x00", "no YAML"),
    "a list": ("- a", "expected a mapping"),
    "no section": ("model: {}\nvae: vae", "has no section scheduler"),
    "a section that is a number": ("model: 3\nvae: vae\nscheduler: {}", "model is no mapping"),
    "a scheduler that is a word": ("model: {}\nvae: vae\nscheduler: ddim", "scheduler is no mapping"),
    "a section that names nothing": ("model: {}\nvae: nowhere\nscheduler: {}", "no such file"),
    "a section that leaves the folder": ("model: {}\nvae: ../../secret\nscheduler: {}", "no such file"),
    "a section without a model": ("model: {}\nvae: preview\nscheduler: {}", "model is no mapping"),
    "itself": ("model: ${model}\nvae: vae\nscheduler: {}", "make a circle"),
    "nothing": ("model: ${nothing}\nvae: vae\nscheduler: {}", "stands for nothing"),
    "an environment variable": ("model: {a: '${oc.env:HOME}'}\nvae: vae\nscheduler: {}", "stands for nothing"),
    "an alias": ("a: &a [1]\nmodel: {b: *a}\nvae: vae\nscheduler: {}", "has an alias"),
    "deep": ("model: " + "[" * 500, "nested more than"),
    "large": ("# " + "x" * 200_000, "larger than 100,000 bytes"),
    "layers": ("model: {layers_per_block: 1000000}\nvae: vae\nscheduler: {}", "expected at most 64"),
}


@pytest.mark.parametrize(("text", "why"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_config_is_one_line(configs: Path, text: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    (configs / "sdxl-base.yaml").write_text(text)
    with pytest.raises(SdxlError, match=why):
        load_shapes("sdxl-base", configs)
    assert main(["--mode", "profile_unet", "--mask_path", "assets/inpainting/masks/0.npy", "--macs_only",
                 "--config_path", str(configs)]) == 2  # fmt: skip
    assert capsys.readouterr().err.count("\n") == 1


def test_references_cannot_stand_for_more_than_fits_in_memory(configs: Path) -> None:
    """Thirty lines that would make 3 to the power of 30 values."""
    lines = ["a0: [1]", *(f"a{n}: ['${{a{n - 1}}}', '${{a{n - 1}}}', '${{a{n - 1}}}']" for n in range(1, 30))]
    (configs / "sdxl-base.yaml").write_text("\n".join([*lines, "model: {}", "vae: vae", "scheduler: {}"]))
    began = perf_counter()
    with pytest.raises(InputError, match="more than 10,000 values"):
        load_shapes("sdxl-base", configs)
    assert perf_counter() - began < 5


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        ("unet", {"layers_per_block": 10**6}),
        ("unet", {"layers_per_block": [2, 2, 10**400]}),
        ("unet", {"layers_per_block": 60, "transformer_layers_per_block": [1, 60]}),
        ("unet", {"block_out_channels": [8] * 9}),
        ("unet", {"block_out_channels": [10**7]}),
        ("unet", {"scaling_factor": float("nan")}),
        ("vae", {"scaling_factor": "much"}),
        ("text_encoder", {"num_hidden_layers": 10**5}),
        ("text_encoder", {"num_labels": 10**9}),
        ("scheduler", {"num_train_timesteps": 10**12}),
    ],
)
def test_a_config_that_asks_for_too_much_is_refused_at_once(part: str, shape: dict[str, Any]) -> None:
    began = perf_counter()
    with pytest.raises(CheckpointError, match=r"^config.json: .*expected"):
        check_bounds(part, shape, "config.json")
    assert perf_counter() - began < 1


@pytest.mark.parametrize("shape", [{"block_out_channels": "wide"}, {"down_block_types": ["Nothing"]}, {"act_fn": "no"}])
def test_a_config_that_no_model_can_be_built_from_is_named(shape: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="here: no unet can be built from it"):
        build_part("unet", shape, "here")


@pytest.mark.parametrize(("name", "config"), [("utils", {}), (None, {}), ("DDIMScheduler", {"beta_schedule": "no"})])
def test_a_scheduler_that_does_not_exist_is_named(name: str | None, config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="here: no .* can be made with its noise schedule"):
        build_scheduler(name, config, "here")


Change = Callable[[dict[str, Any]], object]
FOLDER: dict[str, tuple[str, Change | str, str]] = {
    "a word for the channels": (
        "unet/config.json",
        lambda c: c.update(block_out_channels="wide"),
        "no unet can be built",
    ),
    "many layers": ("unet/config.json", lambda c: c.update(layers_per_block=10**6), "expected at most 64"),
    "other channels": ("unet/config.json", lambda c: c.update(block_out_channels=[8, 8, 8, 8]), "of the wrong shape"),
    "many digits": ("vae/config.json", '{"latent_channels": ' + "9" * 400 + "}", "many digits"),
    "nested": ("vae/config.json", "[" * 100_000, "cannot be read"),
    "large": ("vae/config.json", '"' + "a" * 2_000_000 + '"', "cannot be read"),
    "a list": ("model_index.json", "[]", "expected a JSON object"),
}


@pytest.mark.parametrize(("file", "change", "why"), FOLDER.values(), ids=FOLDER)
def test_a_damaged_folder_of_a_model_is_refused(
    tiny: dict[str, Path], tmp_path: Path, file: str, change: Change | str, why: str
) -> None:
    save_folder(load(tiny["sd15"], progress=False), tmp_path / "model")
    path = tmp_path / "model" / file
    if not isinstance(change, str):
        content = json.loads(path.read_text())
        change(content)
    path.write_text(change if isinstance(change, str) else json.dumps(content))
    began = perf_counter()
    with pytest.raises(CheckpointError, match=why):
        load(tmp_path / "model", progress=False)
    assert perf_counter() - began < 5


def test_the_bounds_know_each_part_of_a_folder(tiny: dict[str, Path], tmp_path: Path) -> None:
    save_folder(load(tiny["sdxl-base"], progress=False), tmp_path / "model")
    assert sorted(open_folder(tmp_path / "model").models) == ["text_encoder", "text_encoder_2", "unet", "vae"]


def test_examples() -> None:
    import doctest

    found = doctest.testmod(bounds)
    assert found.attempted and not found.failed
