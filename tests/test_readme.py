"""The examples in the README and the docs run as they are written, and give what the text says."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.examples import run_example

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_example_of_the_engine_changes_the_region_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_example("docs/engine.md", "region")
    with torch.no_grad():
        dense = names["unet"](names["x_edited"], 500, names["text"]).sample
    before, after = names["before"], names["after"]
    active = torch.tensor(names["region"].active(32, 64))
    assert torch.equal(after[..., ~active], before[..., ~active])
    assert (after - dense)[..., active].norm() < (before - dense)[..., active].norm() / 2  # random weights, one ring
    assert (tmp_path / "region.png").stat().st_size > 0


def test_the_example_of_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdxl.checkpoint.load import load
    from sdxl.checkpoint.tiny import tiny_weights
    from sdxl.commands.export import save_folder

    (tmp_path / "pretrained").mkdir()
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    parts = load(tiny_weights("sdxl-base"), config_path=ROOT / "configs", progress=False)
    save_folder(parts, tmp_path / "pretrained" / "stable-diffusion-xl-base-1.0")
    monkeypatch.chdir(tmp_path)
    shorter = ("num_inference_steps=30", "num_inference_steps=8")  # a quarter of the time
    names = run_example("README.md", "sige.enable", (shorter,))
    assert (names["handle"].passes.dense, names["handle"].passes.packed) == (3, 5)
    assert names["result"].size == (1024, 512) and np.isfinite(np.asarray(names["result"])).all()


def test_links_and_targets_exist() -> None:
    for page in PAGES:
        links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
        assert [link for link in links if not link.startswith("http") and not (page.parent / link).exists()] == []
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z-]+)", README)) <= set(targets)


def test_the_examples_of_the_command_line_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdxl.commands.flags import parse

    page = (ROOT / "docs/command-line.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "house.yaml").write_text(block)
    monkeypatch.chdir(tmp_path)
    lines = [line for line in page.splitlines() if line.startswith("python run.py")]
    said = [parse(shlex.split(line)[2:]) for line in lines]
    assert len(said) >= 10
    assert sum(settings.to_dict() != said[0].to_dict() for settings in said) == len(said) - 1
    (preset,) = (settings for settings in said if settings.preset == "fast")
    assert (preset.steps, preset.mask_blur, preset.prompt) == (30, 12, "a barn")


def test_commands_exist() -> None:
    """The parser knows every flag in every `run.py` line."""
    from sdxl.commands.flags import parse

    lines = [line for line in README.splitlines() if line.startswith("python run.py")]
    before = os.getcwd()
    os.chdir(ROOT)
    try:
        assert [parse(shlex.split(line)[2:]).seed for line in lines] == [3, 53, 11, 53]
    finally:
        os.chdir(before)
