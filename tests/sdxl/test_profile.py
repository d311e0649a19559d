"""The profile modes: figures of the models that a run would load, without weights."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdxl.commands import profile
from sdxl.commands.main import main
from sige import Region
from sige.profiling import MODELS, Subject
from sige.profiling import __main__ as engine
from tests.sdxl.conftest import VAE_CHANNELS

EXAMPLE = (
    'python run.py --prompt "a photograph of a horse on a grassland" --init_img assets/inpainting/original/0.png '
    "--mask_path assets/inpainting/masks/0.npy --W 1024 --seed 53 --config_path configs --mode profile_decoder "
    "--run_type sige"
)
PUBLISHED = {"profile_encoder": 1083.27, "profile_decoder": 2481.99}  # dense, 512x1024; sige's tests count the UNet
MASK = ["--init_img", "before.png", "--mask_path", "mask.npy", "--model", "tiny"]


def test_the_example_runs_as_it_stands(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "RUNS", 1)
    words = shlex.split(EXAMPLE)
    assert words[:2] == ["python", "run.py"]
    assert main(words[2:]) == 0
    out = capsys.readouterr().out
    assert "random weights of the model's shape" in out
    assert "model vae-decoder (tiny), size 512x1024" in out  # the shape of what lies in pretrained
    for line in ("G MACs, published convention", "G MACs, all (with attention)", "ms, median", "GiB, peak"):
        assert line in out


@pytest.mark.parametrize("mode", PUBLISHED)
def test_counting_takes_no_weights(
    mode: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(*_: Any, **__: Any) -> None:
        raise AssertionError("something was timed")

    monkeypatch.setattr("sige.profiling.report.measure_latency", build)
    mask = np.zeros((512, 1024), dtype=bool)
    mask[280:470, 590:910] = True
    np.save(tmp_path / "mask.npy", mask)
    out = tmp_path / "out.json"
    words = ["--mode", mode, "--mask_path", str(tmp_path / "mask.npy"), "--weight_path", str(tmp_path)]
    assert main([*words, "--macs_only", "--json", str(out)]) == 0
    assert capsys.readouterr().out.startswith("weights: none")
    figures = json.loads(out.read_text())
    assert figures["dense"]["macs_published_g"] == pytest.approx(PUBLISHED[mode], rel=5e-3)
    assert figures["packed"]["macs_all_g"] < figures["dense"]["macs_all_g"] / 3
    assert figures["settings"]["size"] == "512x1024"


def test_a_tiny_unet_has_its_own_widths(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert main(["--mode", "profile_unet", *MASK, "--macs_only", "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert 0 < figures["packed"]["macs_all_g"] < figures["dense"]["macs_all_g"] < 1
    assert figures["settings"]["model"] == "sdxl-base (tiny)"


def keys(figures: dict[str, Any]) -> dict[str, Any]:
    """The keys at every level, without the names of single modules."""
    return {
        name: keys(value) if isinstance(value, dict) and name not in ("active", "breakdown", "backends") else None
        for name, value in figures.items()
    }


def test_the_json_has_the_keys_of_the_engine_s_own(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    assert main(["--mode", "profile_decoder", *MASK, "--runs", "1", "--json", str(ours)]) == 0
    build = engine.build

    def small(*args: Any, **options: Any) -> Any:
        shape = {"block_out_channels": VAE_CHANNELS, "norm_num_groups": 4}
        return build(*args, **options, changes=shape)

    monkeypatch.setattr(engine, "build", small)
    flags = ["--model", "vae-decoder", "--size", "64x96", "--mask", "mask.npy", "--runs", "1", "--json", str(theirs)]
    assert engine.main(flags) == 0
    profiles = [json.loads(file.read_text()) for file in (ours, theirs)]
    assert profiles[0]["settings"].pop("weights") == "random"
    assert keys(profiles[0]) == keys(profiles[1])
    assert profiles[0]["breakdown"].keys() == profiles[1]["breakdown"].keys()
    for side in ("dense", "packed"):
        for name in ("macs_published_g", "macs_all_g"):
            assert profiles[0][side][name] == profiles[1][side][name]
        assert profiles[0][side]["latency_ms"]["runs"] == 1


# ---- what is profiled ------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Subject, Region]]:
    """The model and the region that a command would have counted."""

    def asked(*words: str) -> tuple[Subject, Region]:
        calls: list[tuple[Subject, Region]] = []

        def stop(*call: Any) -> None:
            calls.append(call)
            raise KeyboardInterrupt

        monkeypatch.setattr("sige.profiling.report.count_passes", stop)
        assert main(["--mode", "profile_unet", "--macs_only", *words]) == 130
        return calls[0]

    return asked


@pytest.mark.parametrize(
    ("words", "name", "is_tiny", "batch"),
    [
        ([], "sdxl-base", True, 2),
        (["--run_type", "sige"], "sdxl-base", True, 2),
        (["--run_type", "sige-turbo"], "sdxl-base", True, 1),
        (["--scale", "1"], "sdxl-base", True, 1),
        (["--refined", "True"], "sdxl-refiner", True, 2),
        (["--model", "sdxl-inpaint"], "sdxl-inpaint", True, 2),
        (["--model", "sd15"], "sd15", True, 2),
        (["--model", "tiny", "--weight_path", "nowhere"], "sdxl-base", True, 2),
        (["--model", "sdxl", "--weight_path", "nowhere"], "sdxl-base", False, 2),
        (["--mode", "profile_encoder"], "vae-encoder", True, 1),
        (["--mode", "profile_decoder"], "vae-decoder", True, 1),
    ],
)
def test_the_model_is_the_one_that_the_run_would_load(
    words: list[str], name: str, is_tiny: bool, batch: int, asked: Callable[..., tuple[Subject, Region]]
) -> None:
    subject, _ = asked("--init_img", "before.png", "--mask_path", "mask.npy", *words)
    assert (subject.name, subject.batch) == (name, batch)
    assert (sum(parameter.numel() for parameter in subject.target.parameters()) < 10e6) == is_tiny


def test_the_region_comes_from_the_mask_or_from_the_difference(asked: Callable[..., tuple[Subject, Region]]) -> None:
    subject, region = asked("--mask_path", "mask.npy")
    expected = np.zeros((64, 96), dtype=bool)
    expected[16:40, 24:60] = True
    assert subject.size == region.image_size == (64, 96)
    assert np.array_equal(region.active(8, 12), Region.from_mask(expected, dilation=1).active(8, 12))
    _, region = asked("--mask_path", "mask.npy", "--dilation", "0")
    assert np.array_equal(region.active(64, 96), expected)
    _, region = asked("--init_img", "before.png", "--edited_img", "edited.png", "--dilation", "0")
    expected[:] = False
    expected[8:24, 16:40] = True
    assert np.array_equal(region.active(8, 12), expected[::8, ::8])


def test_sizes_are_those_of_the_run(asked: Callable[..., tuple[Subject, Region]]) -> None:
    assert asked("--mask_path", "mask.npy", "--H", "128", "--W", "192")[0].size == (128, 192)
    assert asked("--mask_path", "mask.npy", "--H", "60", "--W", "90")[0].size == (64, 96)  # rounded up


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--mode profile_unet needs an edit: give --mask_path, or --init_img and --edited_img"),
        (["--init_img", "before.png"], "needs an edit"),
        (["--mask_path", "none.npy"], "none.npy"),
        (["--mask_path", "mask.npy", "--json", "missing/x.json"], "the folder missing does not exist"),
        (["--mask_path", "mask.npy", "--json", "configs"], "configs is a folder"),
        (["--mask_path", "mask.npy", "--config_path", "nowhere"], "nowhere"),
        (["--mask_path", "mask.npy", "--runs", "0"], "--runs: got 0"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--mode", "profile_unet", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def test_the_engine_knows_the_models() -> None:
    assert {"sdxl-base", "sdxl-refiner", "sdxl-inpaint", "sd15", "vae-encoder", "vae-decoder"} <= set(MODELS)


def test_a_mask_that_grows_is_profiled_grown(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def active(*more: str) -> float:
        out = tmp_path / "out.json"
        words = ["--mode", "profile_unet", *MASK, "--macs_only", "--json", str(out)]
        assert main([*words, *more]) == 0
        return json.loads(out.read_text())["packed"]["macs_all_g"]

    assert active("--grow", "8") > active() == active("--mask_blur", "8")
    assert main(["--mode", "profile_unet", *MASK, "--only_masked", "8"]) == 2
    assert "--only_masked does not go with --mode profile_unet" in capsys.readouterr().err
