"""A training goes on only with what it began with: settings, weights and pictures; each change is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdxl.checkpoint.load import load
from sdxl.checkpoint.tiny import tiny_weights
from sdxl.commands.train import main
from sdxl.training.folder import FolderPictures
from sdxl.training.identity import identity
from sdxl.training.plan import load_plan

PLAN = """
stage: diffusion
start: {start}
out: {out}
data: {{folder: {pictures}, side: 64}}
loop: {{steps: 1, batch: 1}}
learn: lora
lora: {{rank: 2}}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training of one step."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "pictures").mkdir()
    for name in "ab":
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{name}.png")
    describe(folder, "a ball")
    shutil.copy(tiny_weights("sd15"), folder / "start.safetensors")
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(tiny_weights("sd15").parent / name, folder / name)
    names = {"start": folder / "start.safetensors", "out": folder / "out", "pictures": folder / "pictures"}
    (folder / "plan.yaml").write_text(PLAN.format(**names))
    assert main(["--config", str(folder / "plan.yaml")]) == 0
    return folder


def describe(folder: Path, caption: str) -> None:
    lines = [json.dumps({"file_name": f"{name}.png", "text": caption}) for name in "ab"]
    (folder / "pictures" / "metadata.jsonl").write_text("\n".join(lines))


CHANGES = {
    "seed=3": "seed 0 -> 3",
    "drop=0.5": "drop 0.1 -> 0.5",
    "min_snr=5": "min_snr None -> 5.0",
    "velocity=true": "velocity False -> True",
    "data.flip=true": "data.flip False -> True",
    "data.repeats=2": "data.repeats 1 -> 2",
    "lora.alpha=4": "lora.alpha 16 -> 4",
    "lora.targets=[to_q]": "lora.targets",
    "learn=unet": "learn 'lora' -> 'unet'",
    "loop.rate=0.5": "loop.rate 0.001 -> 0.5",
}


@pytest.mark.parametrize(("change", "what"), CHANGES.items(), ids=CHANGES)
def test_a_changed_setting_is_refused_by_name(
    trained: Path, capsys: pytest.CaptureFixture[str], change: str, what: str
) -> None:
    before = (trained / "out" / "latents.safetensors").stat().st_mtime_ns
    assert main(["--config", str(trained / "plan.yaml"), change]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "is of another run (" in line and what in line and "take another folder" in line
    assert (trained / "out" / "latents.safetensors").stat().st_mtime_ns == before, "nothing was encoded again"


def test_the_same_settings_and_free_ones_go_on(trained: Path) -> None:
    for change in ([], ["prompts=[]"], ["loop.save_every=7"]):
        assert main(["--config", str(trained / "plan.yaml"), *change]) == 0


def test_changed_weights_and_pictures_under_the_same_names_are_noticed(trained: Path) -> None:
    plan = load_plan(trained / "plan.yaml")
    parts, pictures = load(plan.start, progress=False), FolderPictures(trained / "pictures", 64, 64)  # type: ignore[arg-type]
    before = identity(plan, parts, pictures)
    assert identity(plan, load(plan.start, progress=False), pictures) == before  # type: ignore[arg-type]
    try:
        describe(trained, "a box")
        after = identity(plan, parts, FolderPictures(trained / "pictures", 64, 64))
        assert {name for name in before if before[name] != after[name]} == {"pictures and captions"}
    finally:
        describe(trained, "a ball")
    parts.unet.conv_in.weight.data += 1
    after = identity(plan, parts, pictures)
    assert {name for name in before if before[name] != after[name]} == {"weights at the start"}
