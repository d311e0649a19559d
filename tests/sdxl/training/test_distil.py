"""The stage distil: the teacher's trajectories, the student's steps, and the turbo that comes out."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdxl.checkpoint.configs import load_shapes
from sdxl.checkpoint.load import Parts, load
from sdxl.checkpoint.tiny import tiny_weights
from sdxl.commands.main import main as paint
from sdxl.commands.train import main
from sdxl.errors import InputError
from sdxl.pipelines.load import make_pipeline
from sdxl.training import student, teacher
from sdxl.training.batches import Batch, make_batch
from sdxl.training.begin import turbo_of
from sdxl.training.denoiser import Denoiser
from sdxl.training.pictures import ScenePictures
from sdxl.training.plan import Distil, Plan, load_plan
from sdxl.training.student import Student, trailing
from sdxl.training.teacher import Trajectories, kept_trajectories

SIDE = 64
CONFIG = Distil(steps=4, teacher_steps=5, guidance=3.0)
PLAN = """
stage: distil
start: {start}
out: {out}
data: {{scenes: 5, side: 64}}
distil: {{steps: 4, teacher_steps: 4, guidance: 3.0}}
loop: {{steps: 2, batch: 2, sample_every: 2}}
prompts: [a red ball]
"""


@pytest.fixture(scope="module")
def parts() -> Parts:
    return load(tiny_weights("sdxl-base"), progress=False)


def denoiser(parts: Parts, made: type[Denoiser] = Denoiser, **options: Any) -> Denoiser:
    from diffusers import DDIMScheduler

    models = {name: model for name, model in parts.models().items() if name != "vae"}
    words = {"text_encoder": parts.tokenizer, "text_encoder_2": parts.tokenizer_2}
    alphas = DDIMScheduler.from_config(parts.scheduler_config).alphas_cumprod
    return made(models, words, alphas, **options).eval().requires_grad_(False)


def kept(parts: Parts, path: Path, count: int = 3) -> Trajectories:
    pictures = ScenePictures(count, SIDE)
    return kept_trajectories(denoiser(parts), pictures, path, CONFIG, parts.scheduler_config, seed=0)


def whole(source: Trajectories, count: int) -> Batch:
    return make_batch(source, seed=0, step=0, batch=count, drop=0.0, timesteps=(0, 1000))


def test_examples() -> None:
    found = doctest.testmod(student)
    assert found.attempted and not found.failed


def test_the_teacher_paints_what_diffusers_pipeline_paints(parts: Parts, tmp_path: Path) -> None:
    from diffusers import DPMSolverMultistepScheduler

    batch = whole(kept(parts, tmp_path / "trajectories.safetensors"), 3)
    pipe = make_pipeline(parts, "text2img")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(parts.scheduler_config, timestep_spacing="trailing")
    painted = pipe(
        batch.captions,
        latents=batch.noise,
        height=SIDE,
        width=SIDE,
        num_inference_steps=CONFIG.teacher_steps,
        guidance_scale=CONFIG.guidance,
        output_type="latent",
    ).images
    assert (batch.latents - painted).norm() < 2e-3 * painted.norm(), "kept as fp16"


def test_the_students_steps_are_those_of_a_turbos_pipeline(parts: Parts, tmp_path: Path) -> None:
    turbo = turbo_of(parts)
    named = load_shapes("sdxl-turbo", variant="embedded").scheduler
    assert named["_class_name"] == "EulerDiscreteScheduler", "the one whose steps the student takes"
    batch = whole(kept(parts, tmp_path / "trajectories.safetensors"), 3)
    learner = denoiser(parts, Student, steps=4)
    assert isinstance(learner, Student)
    pipe = make_pipeline(turbo, "text2img", "euler")
    pipe.set_progress_bar_config(disable=True)
    painted = pipe(
        batch.captions,
        latents=batch.noise,
        height=SIDE,
        width=SIDE,
        num_inference_steps=4,
        guidance_scale=0.0,
        output_type="latent",
    ).images
    last = Batch(**{**vars(batch), "timesteps": torch.full((3,), 999), "latents": painted})
    first = Batch(**{**vars(last), "timesteps": torch.zeros(3, dtype=torch.int64)})
    assert learner(last) < 1e-6 * painted.square().mean()
    assert learner(first) > 1e-3 * painted.square().mean(), "after one step it is somewhere else"


def test_a_student_that_sees_the_teachers_picture_has_no_loss(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = whole(kept(parts, tmp_path / "trajectories.safetensors"), 3)
    learner = denoiser(parts, Student, steps=4)

    def noise_in(noised: Tensor, timesteps: Tensor, text: Any) -> Tensor:
        alpha = learner.alphas[timesteps][:, None, None, None]  # type: ignore[index]
        return (noised - alpha.sqrt() * batch.latents) / (1 - alpha).sqrt()

    monkeypatch.setattr(learner, "noise_in", noise_in)
    for timestep in trailing(4):
        drawn = Batch(**{**vars(batch), "timesteps": torch.full((3,), timestep)})
        assert learner(drawn) < 1e-8


def test_solving_goes_on_where_it_was_stopped(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "_PART", 2)
    monkeypatch.setattr(teacher, "_AT_ONCE", 1)
    straight = kept(parts, tmp_path / "straight.safetensors", 5)
    solve, solved = teacher.solve, []

    def stops(*arguments: Any) -> Tensor:
        solved.append(arguments)
        if len(solved) == 4:
            raise KeyboardInterrupt
        return solve(*arguments)

    monkeypatch.setattr(teacher, "solve", stops)
    with pytest.raises(KeyboardInterrupt):
        kept(parts, tmp_path / "stopped.safetensors", 5)
    on = kept(parts, tmp_path / "stopped.safetensors", 5)
    assert len(solved) == 4 + 3, "the first part was kept"
    assert torch.equal(on.ends, straight.ends)
    again = kept(parts, tmp_path / "stopped.safetensors", 5)
    assert len(solved) == 7 and torch.equal(again.ends, straight.ends)


def test_from_a_base_to_a_turbo_that_run_py_paints_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.format(start=tiny_weights("sdxl-base"), out=tmp_path / "out"))
    assert main(["--config", str(tmp_path / "plan.yaml")]) == 0
    file = tmp_path / "out" / "model.safetensors"
    assert f"--run_type turbo --weight_path {file}" in capsys.readouterr().out
    assert load(file, progress=False).kind == "sdxl-turbo"
    assert (tmp_path / "out" / "sample-000002.png").is_file()
    picture = tmp_path / "a.png"
    flags = ["--task", "text2img", "--prompt", "a ball", "--H", "64", "--W", "64", "--seed", "1"]
    flags += ["--output_path", str(picture), "--run_type", "turbo", "--weight_path", str(file)]
    assert paint(flags) == 0 and picture.is_file()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": None}, "start: is missing"),
        ({"kind": "sd15"}, "kind: got 'sd15', but the stage distil makes a turbo"),
        ({"learn": "lora"}, "learn: got 'lora', but the stage distil writes a whole turbo"),
        ({"min_snr": 5.0}, "min_snr: the stage distil learns its own few timesteps"),
        ({"velocity": True}, "velocity: the stage distil learns its own few timesteps"),
        ({"pure_from": 950}, "pure_from: the stage distil learns its own few timesteps"),
        ({"masked": 4.0}, "masked: the stage distil learns its own few timesteps"),
        ({"timesteps": 300}, "timesteps: the stage distil learns its own few timesteps"),
        ({"timesteps": 0, "stage": "diffusion"}, "timesteps: got 0, expected a number from 1 to 1000"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.format(start="base.safetensors", out="out"))
    plan = load_plan(tmp_path / "plan.yaml")
    with pytest.raises(InputError, match=f"^{said}"):
        Plan(**{**vars(plan), **change})


def test_steps_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match=r"^distil: got 5 steps and 4 teacher_steps"):
        Distil(steps=5, teacher_steps=4)


def test_only_a_base_becomes_a_turbo() -> None:
    with pytest.raises(InputError, match=r"holds sd15 weights, expected sdxl-base, the teacher of a turbo"):
        turbo_of(load(tiny_weights("sd15"), progress=False))


REFINER = """
stage: diffusion
kind: sdxl-refiner
variant: tiny
vae: {base}
out: {out}
data: {{scenes: 4, side: 64}}
timesteps: 300
loop: {{steps: 2, batch: 2}}
"""


def test_a_refiner_learns_beside_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny_weights("sdxl-base")
    (tmp_path / "plan.yaml").write_text(REFINER.format(base=base, out=tmp_path / "out"))
    assert main(["--config", str(tmp_path / "plan.yaml")]) == 0
    assert "sd_xl_refiner_1.0.safetensors beside the base" in capsys.readouterr().out
    refiner, beside = load(tmp_path / "out" / "model.safetensors", progress=False), load(base, progress=False)
    assert refiner.kind == "sdxl-refiner" and refiner.variant == "tiny" and refiner.text_encoder is None
    for name in ("vae", "text_encoder_2"):
        ours, theirs = (getattr(one, name).state_dict() for one in (refiner, beside))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), f"{name} is the base's, unchanged"


def test_a_refiner_reads_the_empty_text_and_a_low_score_where_a_caption_is_dropped() -> None:
    refiner = load(tiny_weights("sdxl-refiner"), progress=False)
    models = {"unet": refiner.unet, "text_encoder_2": refiner.text_encoder_2}
    model = Denoiser(models, {"text_encoder_2": refiner.tokenizer_2}, torch.linspace(0.999, 0.005, 1000))
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)
    zeros = torch.zeros(2, 4, 8, 8)
    batch = Batch(zeros, zeros, torch.zeros(2), sizes, torch.tensor([False, True]), ["a ball", "a ball"])
    with torch.no_grad():
        text, added = model.encode(batch)
        empty, _ = model.encode(Batch(**{**vars(batch), "captions": ["", "a tower"]}))
    assert added is not None and added["time_ids"].tolist() == [[64, 64, 0, 0, 6.0], [64, 64, 0, 0, 2.5]]
    assert torch.equal(text[1], empty[0]) and not torch.equal(text[0], text[1])
