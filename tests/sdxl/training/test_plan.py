"""Configurations: their settings, the changes of the command line, and the one-line errors for wrong ones."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from sdxl.commands.train import main
from sdxl.errors import InputError
from sdxl.training.loop import LoopConfig
from sdxl.training.plan import Data, Distil, Lora, Plan, load_plan

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "configs" / "train").glob("*.yaml"))
VAE = """
stage: vae
out: out/vae
data: {scenes: 8, side: 64, crop: 32}
loop: {steps: 3, batch: 2}
"""
BASE = """
stage: diffusion
out: out/base
vae: vae.safetensors
data: {scenes: 8, side: 64}
loop: {steps: 3, batch: 2}
"""
GROWN = BASE.replace("vae: vae.safetensors", "start: base.safetensors")


def write(folder: Path, text: str) -> Path:
    (folder / "plan.yaml").write_text(text)
    return folder / "plan.yaml"


def test_what_is_left_out_has_defaults(tmp_path: Path) -> None:
    plan = load_plan(write(tmp_path, BASE))
    assert plan.learns == "all" and plan.drop == 0.1 and plan.lora.targets[-1] == "to_out.0"
    assert (plan.data.height, plan.data.width, plan.data.crop, plan.data.repeats) == (64, 64, 32, 1)
    assert load_plan(write(tmp_path, GROWN)).learns == "unet"


def test_values_are_taken_as_their_settings_want_them(tmp_path: Path) -> None:
    text = GROWN.replace("batch: 2", "batch: 2, rate: 1, precision: no").replace("scenes: 8", "folder: pictures")
    plan = load_plan(write(tmp_path, text + "min_snr: 5\nprompts: [a, b]\nlora: {targets: [to_q]}\nkind: null\n"))
    assert plan.loop.rate == 1.0 and isinstance(plan.loop.rate, float)
    assert plan.loop.precision == "no", "which YAML takes for false"
    assert plan.data.folder == Path("pictures") and plan.min_snr == 5.0 and plan.kind is None
    assert plan.prompts == ("a", "b") and plan.lora.targets == ("to_q",)


def test_the_command_line_comes_after_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, GROWN)
    plan = load_plan(path, ["loop.steps=10", "data.scenes=0", "data.folder=a b", "learn=lora", "lora.rank=2"])
    assert plan.loop.steps == 10 and plan.loop.batch == 2
    assert plan.data.folder == Path("a b") and plan.learns == "lora" and plan.lora.rank == 2


REFUSED = {
    "no yaml": ("a: [", "is no YAML"),
    "a list": ("[1, 2]", "expected a mapping"),
    "unknown key": (VAE + "speed: 3", "no setting 'speed'"),
    "unknown key inside": (VAE.replace("scenes: 8", "scenes: 8, colour: red"), "data: no setting 'colour'"),
    "no mapping inside": (VAE.replace("{steps: 3, batch: 2}", "3"), "loop: got 3, expected a mapping"),
    "unknown stage": (VAE.replace("stage: vae", "stage: text"), "stage: got 'text'"),
    "unknown kind": (GROWN + "kind: sdxl-turbo", "kind: got 'sdxl-turbo'"),
    "nothing to learn on": (BASE.replace("vae:", "#"), "needs `start`, or `vae`"),
    "missing": (VAE.replace("out:", "#"), "the setting 'out' is missing"),
    "missing inside": (VAE.replace("steps: 3, ", ""), "loop: the setting 'steps' is missing"),
    "odd side": (VAE.replace("side: 64", "side: 63"), "expected a multiple of 8"),
    "a word for a number": (VAE.replace("steps: 3", "steps: many"), "loop: steps: got 'many', expected a whole number"),
    "true for a number": (VAE.replace("steps: 3", "steps: true"), "loop: steps: got True, expected a whole number"),
    "a number for a path": (BASE.replace("out: out/base", "out: 3"), "out: got 3, expected a path"),
    "a word for a list": (BASE + "prompts: a ball", "prompts: got 'a ball', expected a list of texts"),
    "neither": (BASE.replace("scenes: 8, ", ""), "expected one of the two"),
    "both": (BASE.replace("scenes: 8", "scenes: 8, folder: x"), "data.scenes=0 on the command line"),
    "wide scenes": (BASE.replace("side: 64", "side: 64, width: 128"), "scenes are square"),
    "a VAE of a folder": (VAE.replace("scenes: 8", "folder: x"), "learns from scenes only"),
    "lora from nothing": (BASE + "learn: lora", "learn: got 'lora' without `start`, expected 'all'"),
    "no rank": (GROWN + "lora: {rank: 0}", "lora: got rank 0"),
    "a share": (BASE + "drop: 2", "drop: got 2.0"),
    "a negative seed": (BASE + "seed: -1", "seed: got -1, expected a number from 0"),
    "a seed of 400 digits": (BASE + "seed: " + "9" * 400, "seed: got 999"),
    "a seed of 5000 digits": (BASE + "seed: " + "9" * 5000, "is no YAML"),
    "a rate of 400 digits": (BASE.replace("batch: 2", "batch: 2, rate: " + "9" * 400), "rate: got inf"),
    "both weights": (BASE + "min_snr: 5\nvelocity: true", "velocity, min_snr: both weigh the timesteps"),
    "no timestep": (BASE + "pure_from: 1000", "pure_from: got 1000"),
    "no weight": (BASE + "masked: 0", "masked: got 0.0"),
    "a negative min-SNR": (BASE + "min_snr: -5", "min_snr: got -5.0"),
    "a side without end": (BASE.replace("side: 64", "side: 800000000"), "expected a multiple of 8 up to 16384"),
    "a zero byte": (BASE + "prompts: [a\0b]", "is no YAML"),
    "an alias": (BASE + "prompts: &a [x]\nlora: *a", "has an alias"),
    "a circle": (BASE + "prompts: ${prompts}", "make a circle"),
    "nothing": (BASE + "seed: ${nothing}", "stands for nothing"),
    "an environment variable": (BASE + "variant: ${oc.env:HOME}", "stands for nothing"),
    "nested": (BASE + "prompts: " + "[" * 2000, "nested more than 30 deep"),
    "large": (BASE + "# " + "x" * 200_000, "larger than 100,000 bytes"),
}


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED)
def test_a_plan_that_cannot_be_run_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        load_plan(write(tmp_path, text))
    assert why in str(caught.value)


OVERRIDES = {
    "loop.stepps=3": "loop: no setting 'stepps'",
    "speed=3": "no setting 'speed'",
    "loop=3": "loop: got 3",
    "loop.steps": "'loop.steps' sets nothing",
    "=3": "'=3' sets nothing",
    "loop.steps=[1": "is no YAML",
    "data.folder=x": "expected one of the two",
    "seed=-1": "seed: got -1",
    "prompts=" + "[" * 5000: "is too long",
    "seed=${oc.env:HOME}": "stands for nothing",
    "a[0].b=1": "no setting",
}


@pytest.mark.parametrize(("override", "why"), OVERRIDES.items())
def test_a_wrong_override_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, why: str
) -> None:
    assert main(["--config", str(write(tmp_path, BASE)), override]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and why in line and line.count("\n") == 1


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_the_projects_configurations_can_be_read(path: Path) -> None:
    plan = load_plan(path)
    assert plan.loop.steps > 100 and plan.out == Path("out/train") / path.stem
    assert path.read_text().startswith("# "), "--help shows it"


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_the_projects_configurations_say_what_is_missing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if path.stem == "embedded-vae":
        pytest.skip("needs nothing")
    monkeypatch.chdir(tmp_path)
    assert main(["--config", str(path)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and "does not exist: " in line and line.count("\n") == 1
    if load_plan(path).data.folder is None:
        return
    assert main(["--config", str(path), "data.folder=null", "data.scenes=2"]) == 2
    line = capsys.readouterr().err
    assert f"start: {load_plan(path).start} does not exist: download it" in line and line.count("\n") == 1


def test_help_lists_the_configurations(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "docs/training.md" in said
    assert all(path.name in said for path in CONFIGS)


def test_no_configuration_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2 and main(["--config", str(tmp_path / "none.yaml")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "--config" in lines[0] and "does not exist" in lines[1]


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")], ids=["CPU", "GPU"])
def test_too_little_memory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fails(_: Plan) -> str:
        raise error

    monkeypatch.setattr("sdxl.training.stages.run", fails)
    assert main(["--config", str(write(tmp_path, BASE))]) == 2
    assert capsys.readouterr().err.startswith("error: not enough memory: take a larger loop.accumulate")


def test_the_documentation_has_every_key() -> None:
    tables = (ROOT / "docs" / "training.md").read_text().split("## Every key")[1].split("##")[0]
    first = [line.split("|")[1] for line in tables.splitlines() if line.startswith("|")]
    named = {key for cell in first for key in re.findall(r"`([a-z_.]+)`", cell)}
    parts = {"data": Data, "loop": LoopConfig, "lora": Lora, "distil": Distil}
    known = {item.name for item in fields(Plan)} - set(parts)
    known |= {f"{name}.{item.name}" for name, kind in parts.items() for item in fields(kind)}
    assert named == known


def test_a_reference_sees_what_the_command_line_says(tmp_path: Path) -> None:
    text = BASE.replace("side: 64", "side: '${loop.batch}'")
    path = write(tmp_path, text.replace("batch: 2", "batch: 64"))
    assert load_plan(path).data.side == 64
    assert load_plan(path, ["loop.batch=32"]).data.side == 32


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_bytes(b"\xff\xfe\x00stage")
    with pytest.raises(InputError, match="is no YAML that can be read"):
        load_plan(tmp_path / "plan.yaml")
