"""train.py from end to end on a few steps: a VAE, a base on it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdxl.checkpoint.load import load
from sdxl.training.cli import main

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


def write(folder: Path, text: str, name: str = "plan.yaml") -> list[str]:
    (folder / name).write_text(text.format(out=folder))
    return ["--config", str(folder / name)]


def test_two_stages_end_as_one_checkpoint_that_loads_and_paints(tmp_path: Path) -> None:
    from sdxl.editing import Sampling, text2img
    from sdxl.pipelines import make_pipeline

    assert main(write(tmp_path, VAE)) == 0
    assert main(write(tmp_path, BASE)) == 0
    for stage in ("vae", "base"):
        kept = {path.name for path in (tmp_path / stage).iterdir()}
        assert {"model.safetensors", "loss.csv", "state.pt", "sample-000003.png", "tokenizer", "tokenizer_2"} <= kept
    vae, base = (load(tmp_path / stage / "model.safetensors", progress=False) for stage in ("vae", "base"))
    assert base.kind == "sdxl-base" and base.variant == "embedded"
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(vae.vae.parameters(), base.vae.parameters(), strict=True)
    )
    pipe = make_pipeline(base, "text2img")
    pipe.set_progress_bar_config(disable=True)
    assert text2img(pipe, (64, 64), sampling=Sampling("a red ball", steps=2)).size == (64, 64)


REFUSED = {
    "no file": ("", "does not exist"),
    "no yaml": ("a: [", "is no YAML"),
    "a list": ("[1, 2]", "expected a mapping"),
    "unknown key": (VAE + "speed: 3", "no setting 'speed'"),
    "unknown key inside": (VAE.replace("scenes: 8", "scenes: 8, colour: red"), "no setting 'colour'"),
    "unknown stage": (VAE.replace("stage: vae", "stage: text"), "stage: got 'text'"),
    "nothing to learn on": (BASE.replace("vae:", "#"), "needs `start`, or `vae`"),
    "missing": (VAE.replace("out:", "#"), "out"),
    "odd side": (VAE.replace("side: 64", "side: 63"), "expected a multiple of 8"),
}


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED)
def test_a_plan_that_cannot_be_run_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, why: str
) -> None:
    arguments = write(tmp_path, text) if text else ["--config", str(tmp_path / "nothing.yaml")]
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and why in line and line.count("\n") == 1


def test_every_plan_of_the_project_can_be_read() -> None:
    from sdxl.training.plan import load_plan

    plans = sorted(Path("configs/train").glob("*.yaml"))
    assert plans and all(load_plan(plan).loop.steps > 0 for plan in plans)
