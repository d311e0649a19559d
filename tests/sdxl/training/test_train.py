"""train.py from end to end on a few steps: a VAE, a base on it, inpainting and a LoRA from a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdxl.checkpoint.embedded import embedded_weights
from sdxl.checkpoint.load import load
from sdxl.checkpoint.tiny import tiny_weights
from sdxl.commands.train import main
from sdxl.training.begin import begin_vae
from sdxl.training.plan import load_plan

ROOT = Path(__file__).resolve().parents[3]
VAE = """
stage: vae
variant: embedded
out: {out}/vae
data: {{scenes: 8, side: 64, crop: 32}}
loop: {{steps: 3, batch: 2, save_every: 2, sample_every: 3}}
"""
BASE = """
stage: diffusion
variant: embedded
out: {out}/base
vae: {out}/vae/model.safetensors
data: {{scenes: 8, side: 64}}
loop: {{steps: 3, batch: 2, save_every: 2, sample_every: 3}}
prompts: [a red ball on the left]
"""
FOLDER = """
stage: diffusion
start: {start}
out: {out}
data: {{folder: {pictures}, side: 64, repeats: 2, flip: true}}
loop: {{steps: 2, batch: 2, rate: 1.0e-3, gradient_checkpointing: true}}
min_snr: 5
"""
LEFT = {"model.safetensors", "diffusers", "loss.csv", "loss.png", "state.pt", "latents.safetensors", "tokenizer"}


def write(folder: Path, text: str, **names: object) -> list[str]:
    (folder / "plan.yaml").write_text(text.format(**{"out": folder, **names}))
    return ["--config", str(folder / "plan.yaml")]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (72, 96, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    lines = [json.dumps({"file_name": f"{name}.png", "text": f"a picture of {name}"}) for name in "abc"]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a VAE and a base on it."""
    folder = tmp_path_factory.mktemp("stages")
    assert main(write(folder, VAE)) == 0
    assert main(write(folder, BASE)) == 0
    return folder


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Resets accelerate, which keeps the precision for the whole process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    yield


def same(found: Any, expected: Any) -> bool:
    after, before = found.state_dict(), expected.state_dict()
    return set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_two_stages_end_as_one_checkpoint_that_loads_and_paints(stages: Path) -> None:
    from sdxl.edits.edit import text2img
    from sdxl.edits.sampling import Sampling
    from sdxl.pipelines.load import make_pipeline

    for stage in ("vae", "base"):
        kept = {path.name for path in (stages / stage).iterdir()}
        latents = set() if stage == "base" else {"latents.safetensors"}
        assert kept == {*LEFT, "tokenizer_2", "sample-000003.png"} - latents
    vae, base = (load(stages / stage / "model.safetensors", progress=False) for stage in ("vae", "base"))
    assert base.kind == "sdxl-base" and base.variant == "embedded"
    assert same(base.vae, vae.vae)
    assert all(same(model, base.models()[name]) for name, model in load(stages / "base/diffusers").models().items())
    pipe = make_pipeline(base, "text2img")
    pipe.set_progress_bar_config(disable=True)
    assert text2img(pipe, (64, 64), sampling=Sampling("a red ball", steps=2)).image.size == (64, 64)


def test_a_vae_that_goes_on_from_halves_learns_in_fp32(tmp_path: Path) -> None:
    """It once learned in the fp16 of the file, and the loss rose."""
    path = tmp_path / "plan.yaml"
    path.write_text(VAE.format(out=tmp_path).replace("variant: embedded", f"start: {embedded_weights()}"))
    assert {value.dtype for value in load(embedded_weights()).vae.parameters()} == {torch.float16}
    assert {value.dtype for value in begin_vae(load_plan(path)).vae.parameters()} == {torch.float32}


@pytest.mark.parametrize(("start", "kind"), [("sdxl-base", "sdxl-inpaint"), ("sd15", "sd15-inpaint")])
def test_inpainting_from_a_folder_ends_as_files_that_diffusers_and_run_py_load(
    start: str, kind: str, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusers import AutoPipelineForInpainting

    from sdxl.commands.main import main as paint

    plan = write(tmp_path, FOLDER, out=tmp_path / "out", start=tiny_weights(start), pictures=pictures)
    more = [f"kind={kind}", "loop.sample_every=2", "prompts=[a ball, a box]", "loop.batch=1"]
    assert main([*plan, *more]) == 0
    said = capsys.readouterr().out
    file, folder = tmp_path / "out" / "model.safetensors", tmp_path / "out" / "diffusers"
    assert f"--weight_path {file}" in said and str(folder) in said
    second = {"tokenizer_2"} if start == "sdxl-base" else set()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*LEFT, "sample-000002.png", *second}
    assert Image.open(tmp_path / "out" / "sample-000002.png").size == (128, 128), "two columns: masked, painted"

    words = {path.name for path in (tmp_path / "out" / "tokenizer").iterdir()}
    assert {"vocab.json", "merges.txt"} <= words, "CLIP's own format, which tools/embed.py takes"
    single, parts = load(file, progress=False), load(folder, progress=False)
    assert single.kind == parts.kind == kind and single.unet.config.in_channels == 9
    assert all(same(model, single.models()[name]) for name, model in parts.models().items())
    pipe = AutoPipelineForInpainting.from_pretrained(folder, local_files_only=True)
    assert "Inpaint" in type(pipe).__name__ and same(pipe.unet, single.unet)
    before = load(tiny_weights(start), progress=False)
    assert same(single.text_encoder, before.text_encoder) and same(single.vae, before.vae)
    assert not torch.equal(single.unet.conv_in.weight[:, :4], before.unet.conv_in.weight)

    np.save(tmp_path / "mask.npy", np.eye(72, 96, dtype=bool))
    flags = ["--model", kind.removesuffix("-inpaint") if start == "sd15" else kind, "--weight_path", str(file)]
    files = ["--init_img", str(pictures / "a.png"), "--mask_path", str(tmp_path / "mask.npy")]
    output = ["--output_path", str(tmp_path / "painted.png"), "--ddim_steps", "2", "--prompt", "a ball"]
    assert paint([*flags, *files, *output, "--config_path", str(ROOT / "configs")]) == 0
    assert Image.open(tmp_path / "painted.png").size == (96, 72)


def test_a_lora_from_a_folder_is_written_and_sampled(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tiny_weights("sdxl-base")
    plan = write(tmp_path, FOLDER, out=tmp_path / "out", start=start, pictures=pictures)
    more = ["learn=lora", "lora.rank=2", "loop.sample_every=2", "prompts=[a ball]", "loop.precision=bf16"]
    assert main([*plan, *more]) == 0
    file = tmp_path / "out" / "pytorch_lora_weights.safetensors"
    assert f"--weight_path {start} --lora {file}" in capsys.readouterr().out
    assert file.is_file() and (tmp_path / "out" / "sample-000002.png").is_file()
    assert not (tmp_path / "out" / "model.safetensors").exists()


REFUSED = {
    "other kind": (["kind=sd15"], "holds sdxl-base weights, expected sd15"),
    "lora of new inputs": (["kind=sdxl-inpaint", "learn=lora"], "the new input weights would stay zero"),
    "no mask": (["masked=4"], "masked: got 4.0, but sdxl-base weights have no mask"),
    "no start": (["start=nowhere.safetensors"], "start: nowhere.safetensors does not exist: download it"),
    "no folder": (["data.folder=nowhere"], "nowhere/metadata.jsonl does not exist"),
    "large side": (["data.side=128"], "line 1: "),
}


@pytest.mark.parametrize(("more", "why"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_started_is_refused_in_one_line(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], more: list[str], why: str
) -> None:
    plan = write(tmp_path, FOLDER, out=tmp_path / "out", start=tiny_weights("sdxl-base"), pictures=pictures)
    assert main([*plan, *more]) == 2
    line = capsys.readouterr().err
    assert line.splitlines()[-1].startswith("error: ") and why in line and "Traceback" not in line


def test_a_refiner_goes_on_learning_from_a_folder(tmp_path: Path, pictures: Path) -> None:
    start = tiny_weights("sdxl-refiner")
    assert main([*write(tmp_path, FOLDER, out=tmp_path / "out", start=start, pictures=pictures), "timesteps=300"]) == 0
    before, after = load(start, progress=False), load(tmp_path / "out" / "model.safetensors", progress=False)
    assert after.kind == "sdxl-refiner"
    assert same(after.text_encoder_2, before.text_encoder_2) and not same(after.unet, before.unet)


def test_two_processes_write_what_one_does(stages: Path) -> None:
    """`accelerate launch train.py` trains all weights; the first process encodes and writes."""
    plan = [*write(stages, BASE), "prompts=[]", f"out={stages / 'two'}"]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    options = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [sys.executable, *launch, *options, str(ROOT / "train.py"), *plan],
        capture_output=True, text=True, timeout=240, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("wrote ") == 1
    one, two = (load(stages / name / "model.safetensors", progress=False) for name in ("base", "two"))
    for ours, theirs in zip(one.unet.parameters(), two.unet.parameters(), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)
    losses = [(stages / name / "loss.csv").read_text().splitlines()[1:] for name in ("base", "two")]
    for ours_, theirs_ in zip(*losses, strict=True):
        assert float(ours_.split(",")[1]) == pytest.approx(float(theirs_.split(",")[1]), rel=1e-4)
