"""The command line: words become settings, mistakes one line, and no heavy import comes before either."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdxl.commands import main as cli
from sdxl.commands.flags import parse
from sdxl.commands.main import main
from sdxl.commands.settings import Settings
from sdxl.errors import CheckpointError, InputError
from sdxl.pictures.png import save_png
from sige.terminal import MISTAKE

ROOT = Path(__file__).resolve().parent.parent.parent
INPAINT = ["--prompt", "a horse", "--init_img", "a.png", "--mask_path", "m.npy", "--output_path", "b.png"]
SDEDIT = ["--task", "sdedit", "--prompt", "x", "--edited_img", "e.png", "--output_path", "b.png"]
TEXT = ["--task", "text2img", "--prompt", "x", "--output_path", "b.png"]
IMAGE = ["--task", "img2img", "--prompt", "x", "--init_img", "a.png", "--output_path", "b.png"]
SPARSE = [*INPAINT, "--run_type", "sige"]
TURBO = [*INPAINT, "--run_type", "turbo"]
CONTROL = ["--controlnet", "c", "--control_image", "e.png"]
ISSUE_FLAGS = (
    "--task --init_img --mask_path --H --W --edited_img --strength --run_type --refined --mode --json --macs_only "
    "--prompt --negative_prompt --prompt_2 --negative_prompt_2 --output_path --ddim_steps --ddim_eta --scale --seed "
    "--config_path --weight_path --device --dtype --scheduler --original_size --target_size --crops_coords_top_left "
    "--negative_original_size --negative_target_size --negative_crops_coords_top_left --denoising_split --lora "
    "--textual_inversion --model --policy --preset --dense_steps --skipped_steps --half_steps --forecast "
    "--dilation --from_png --trust_png "
    "--clip_skip --grow --mask_blur --match_edge --only_masked --n --vae --controlnet --control_image "
    "--control_scale --attention --offload"
    " --tome_ratio --tome_max_downsample --tome_sx --tome_sy --tome_use_rand --tome_merge_attn "
    "--tome_merge_crossattn --tome_merge_mlp"
).split()


# ---- words to settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--ddim_steps", "7"], {"steps": 7}),
        (["--ddim-steps=7"], {"steps": 7}),
        (["--ddim_eta", "0.5"], {"eta": 0.5}),
        (["--scale", "3"], {"scale": 3.0}),
        (["--H", "64", "--W", "128"], {"height": 64, "width": 128}),
        (["--negative-prompt", "red-and-blue"], {"negative_prompt": "red-and-blue"}),
        (["--prompt=--quoted--"], {"prompt": "--quoted--"}),
        (["--original_size", "512x1024"], {"original_size": (512, 1024)}),
        (["--original-size", "512", "1024"], {"original_size": (512, 1024)}),
        (["--target_size", "(512, 1024)"], {"target_size": (512, 1024)}),
        (["--crops_coords_top_left", "0,64"], {"crops_coords_top_left": (0, 64)}),
        (["--negative_crops_coords_top_left", "8", "0"], {"negative_crops_coords_top_left": (8, 0)}),
        (["--lora", "a", "b", "--lora", "c"], {"lora": ("a", "b", "c")}),
        (["--textual_inversion", "a"], {"textual_inversion": ("a",)}),
        (["--run_type", "sige", "--dense_steps", "7"], {"dense_steps": 7}),
        (["--run_type", "sige", "--dense_steps", "0,2,5"], {"dense_steps": (0, 2, 5)}),
        (["--run_type", "sige", "--dense_steps", " 0, 2 ,5,"], {"dense_steps": (0, 2, 5)}),
        (["--run_type", "sige", "--dense_steps", "0,"], {"dense_steps": (0,)}),
        (["--seed", "0"], {"seed": 0}),
        (["--lora", "a:0.5", "b"], {"lora": ("a:0.5", "b")}),
        (["--n", "4"], {"n": 4}),
        (["--grow", "8", "--mask-blur", "12"], {"grow": 8, "mask_blur": 12}),
        (["--only_masked", "64"], {"only_masked": 64}),
        (["--clip_skip", "1"], {"clip_skip": 1}),
        (["--vae", "v.safetensors"], {"vae": Path("v.safetensors")}),
        (["--attention", "sliced"], {"attention": "sliced"}),
        (["--offload", "model", "--device", "cuda"], {"offload": "model"}),
        (["--offload", "none", "--device", "cpu"], {"offload": "none"}),
        ([*CONTROL, "--control_scale", "0.5"], {"controlnet": Path("c"), "control_scale": 0.5}),
        (["--device", "cuda:1", "--dtype", "bf16"], {"device": "cuda:1", "dtype": "bf16"}),
        (["--tome_ratio", "0.5", "--tome-max-downsample", "2"], {"tome_ratio": 0.5, "tome_max_downsample": 2}),
        (["--tome_ratio", "0.5", "--tome_use_rand", "no"], {"tome_use_rand": False, "tome_merge_mlp": None}),
        (["--weight_path", "w", "--config-path", "c"], {"weight_path": Path("w"), "config_path": Path("c")}),
    ],
)
def test_words_become_settings(words: list[str], expected: dict[str, Any]) -> None:
    settings = parse([*INPAINT, *words])
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize("word", ["True", "true", "TRUE", "yes", "y", "on", "1", "t"])
def test_every_spelling_of_true(word: str) -> None:
    assert parse([*INPAINT, "--refined", word]).refined
    assert parse([*INPAINT, f"--refined={word}"]).refined


@pytest.mark.parametrize("word", ["False", "false", "no", "off", "0", "None"])
def test_every_spelling_of_false(word: str) -> None:
    assert not parse([*INPAINT, "--refined", word]).refined


def test_a_switch_by_itself_is_on() -> None:
    assert parse([*INPAINT, "--refined", "--seed", "3"]).refined
    assert parse(["--mode", "profile_unet", "--macs_only"]).macs_only


def test_defaults() -> None:
    settings = parse(INPAINT)
    assert (settings.task, settings.mode, settings.run_type) == ("inpainting", "generate", "original")
    assert (settings.steps, settings.scale, settings.eta) == (50, 7.5, 0.0)
    assert (settings.weight_path, settings.config_path) == (Path("pretrained"), Path("configs"))
    assert (settings.device, settings.dtype, settings.model) == ("auto", "auto", "auto")
    assert (settings.height, settings.width, settings.strength, settings.scheduler) == (None, None, None, None)


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert [flag for flag in ISSUE_FLAGS if not re.search(rf"^ +{flag}\b", text, re.MULTILINE)] == []
    assert max(map(len, text.splitlines())) <= 120


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--init_img is missing: --task inpainting needs it"),
        # names
        ([*INPAINT, "--task", "inpaint"], "--task: got 'inpaint', .* did you mean inpainting?"),
        ([*INPAINT, "--run_type", "siege"], "--run_type: got 'siege', .* did you mean sige?"),
        ([*INPAINT, "--mode", "profile"], "--mode: got 'profile', .* did you mean profile_unet?"),
        ([*INPAINT, "--model", "sdx"], "--model: got 'sdx', .* did you mean sdxl?"),
        ([*INPAINT, "--scheduler", "eular"], "--scheduler: got 'eular', .* did you mean euler?"),
        ([*INPAINT, "--dtype", "float64"], "--dtype: got 'float64', expected one of auto, fp32, fp16, bf16$"),
        ([*INPAINT, "--device", "tpu"], "--device: got 'tpu', expected auto, cpu, cuda or cuda:1"),
        ([*INPAINT, "--device", "cpu:1"], "--device: got 'cpu:1'"),
        ([*INPAINT, "--device", "cuda:x"], "--device: got 'cuda:x'"),
        ([*SPARSE, "--policy", "lock"], "--policy: got 'lock', .* did you mean lockstep?"),
        ([*SPARSE, "--schedule", "evan"], "--schedule: got 'evan', .* did you mean even?"),
        ([*SPARSE, "--preset", "best"], "--preset: got 'best'"),
        ([*SPARSE, "--skipped_steps", "6;8"], "--skipped_steps: got '6;8', expected step numbers"),
        ([*SPARSE, "--half_steps", "5,0"], "--half_steps: got 5,0, expected steps in order"),
        ([*SPARSE, "--forecast", "cubic"], "--forecast: got 'cubic'"),
        # flags and words
        ([*INPAINT, "--ddim_step", "5"], "--ddim_step: no such flag; did you mean --ddim_steps?"),
        ([*INPAINT, "--xyzzy"], "--xyzzy: no such flag; see --help"),
        ([*INPAINT, "grassland"], "got 'grassland', which follows no flag"),
        ([*INPAINT, "-x"], "-x: no such flag"),
        ([*INPAINT, "--seed"], "--seed: expected one argument"),
        ([*INPAINT, "--seed", "x"], "--seed: got 'x', expected a whole number"),
        ([*INPAINT, "--H", "12.5"], "--H: got '12.5', expected a whole number"),
        ([*INPAINT, "--scale", "big"], "--scale: got 'big', expected a number"),
        ([*INPAINT, "--refined", "maybe"], "--refined: got 'maybe', expected True or False"),
        ([*INPAINT, "--original_size", "512"], "--original_size: got '512', expected two whole numbers"),
        ([*INPAINT, "--target_size", "axb"], "--target_size: got 'axb', expected two whole numbers"),
        ([*SPARSE, "--dense_steps", "0,a"], "--dense_steps: got '0,a', expected how many steps"),
        ([*SPARSE, "--dense_steps", ""], "--dense_steps: got ''"),
        # numbers
        ([*INPAINT, "--ddim_steps", "0"], "--ddim_steps: got 0, expected a number from 1 to 1000"),
        ([*INPAINT, "--ddim_steps", "1001"], "--ddim_steps: got 1001"),
        ([*INPAINT, "--H", "0"], "--H: got 0"),
        ([*INPAINT, "--W", "-8"], "--W: got -8"),
        ([*INPAINT, "--scale", "-1"], "--scale: got -1"),
        ([*INPAINT, "--scale", "nan"], "--scale: got nan"),
        ([*INPAINT, "--ddim_eta", "1.5"], "--ddim_eta: got 1.5"),
        ([*INPAINT, "--seed", "-1"], "--seed: got -1"),
        ([*INPAINT, "--seed", "9" * 400], "--seed: got 999"),  # which no float holds
        ([*INPAINT, "--seed", "9" * 5000], "--seed: got .*, expected a whole number"),
        ([*INPAINT, "--scale", "1e999"], "--scale: got inf"),
        ([*INPAINT, "--original_size", "9" * 30 + "x8"], "--original_size: got .*, expected two whole numbers"),
        ([*INPAINT, "--original_size", "2000000x8"], "--original_size: got 2000000 and 8, expected two numbers up to"),
        ([*INPAINT, "--device", "cuda:" + "9" * 5000], "--device: got"),
        ([*INPAINT, "--strength", "0"], "--strength: got 0.0, expected a number above 0, up to 1"),
        ([*INPAINT, "--strength", "1.1"], "--strength: got 1.1"),
        ([*INPAINT, "--strength", "0.1", "--ddim_steps", "5"], "--strength 0.1 of --ddim_steps 5 leaves no step"),
        ([*SDEDIT, "--ddim_steps", "1"], "--strength 0.8 of --ddim_steps 1 leaves no step"),
        ([*INPAINT, "--refined", "1", "--denoising_split", "1"], "--denoising_split: got 1.0"),
        ([*INPAINT, "--original_size", "0x64"], "--original_size: got 0 and 64, expected two numbers of at least 1"),
        ([*INPAINT, "--crops_coords_top_left", "-8", "0"], "--crops_coords_top_left: got -8 and 0"),
        ([*SPARSE, "--dilation", "-1"], "--dilation: got -1"),
        ([*SPARSE, "--dense_steps", "51"], "--dense_steps: got 51, expected a number from 1 to --ddim_steps, 50"),
        ([*SPARSE, "--dense_steps", "0,50"], "--dense_steps: got 0,50, expected steps from 0 on, in order, below"),
        ([*SPARSE, "--dense_steps", "1,2"], "--dense_steps: got 1,2, expected steps from 0 on"),
        ([*SPARSE, "--dense_steps", "0,5,2"], "--dense_steps: got 0,5,2, expected steps from 0 on, in order"),
        ([*TEXT, "--H", "100"], "--H and --W: expected multiples of 8"),
        # what a task needs, and what it does not read
        ([*INPAINT[:4], "--output_path", "b.png"], "--mask_path is missing: --task inpainting needs it"),
        (SDEDIT[:4], "--edited_img is missing: --task sdedit needs it"),
        (IMAGE[:4], "--init_img is missing: --task img2img needs it"),
        (INPAINT[2:], "--prompt is missing"),
        (INPAINT[:6], "--output_path is missing"),
        ([*SDEDIT, "--run_type", "sige"], "--init_img is missing: a sparse sdedit recomputes where"),
        ([*SDEDIT, "--run_type", "sige-turbo"], "--init_img is missing: a sparse sdedit"),
        (
            [*TEXT, "--run_type", "sige"],
            "--run_type sige has nothing to reuse with --task text2img.* --run_type original",
        ),
        (
            [*IMAGE, "--run_type", "sige-turbo"],
            "nothing to reuse with --task img2img.* --run_type turbo, or --task sdedit",
        ),
        (
            [*TEXT, "--init_img", "a.png"],
            "--init_img has no effect with --task text2img, only with inpainting and sdedit",
        ),
        ([*TEXT, "--strength", "0.5"], "--strength has no effect with --task text2img"),
        ([*IMAGE, "--edited_img", "e.png"], "--edited_img has no effect with --task img2img, only with sdedit"),
        ([*SDEDIT, "--mask_path", "m.npy"], "--mask_path has no effect with --task sdedit, only with inpainting"),
        ([*INPAINT, "--macs_only"], "--macs_only has no effect with --mode generate"),
        ([*INPAINT, "--runs", "3"], "--runs has no effect with --mode generate"),
        # which weights
        ([*TURBO, "--refined", "True"], "--refined does not go with turbo"),
        ([*INPAINT, "--refined", "1", "--ddim_steps", "3"], "--refined takes 30% of --ddim_steps 3, which leaves no"),
        ([*INPAINT, "--denoising_split", "0.8"], "--denoising_split has no effect without the refiner"),
        ([*TURBO, "--model", "sd15"], "--run_type turbo has weights of its own: leave out --model sd15"),
        ([*SDEDIT, "--model", "sdxl-inpaint"], "--model sdxl-inpaint can only inpaint: take --model sdxl"),
        ([*INPAINT, "--model", "sd15", "--refined", "1"], "--refined does not go with --model sd15"),
        ([*INPAINT, "--model", "sd15", "--prompt_2", "x"], "--prompt_2 has no effect with --model sd15"),
        ([*INPAINT, "--model", "sd15", "--original_size", "8x8"], "--original_size has no effect with --model sd15"),
        ([*INPAINT, "--model", "sd15", "--crops_coords_top_left", "0,0"], "--crops_coords_top_left has no effect"),
        # what is added to the weights, and their memory
        ([*INPAINT, "--lora", "a:strong"], "--lora: got 'a:strong', expected FILE or FILE:strength"),
        ([*INPAINT, "--lora", "a:0"], "--lora: got the strength 0 for a, expected a number from -10 to 10"),
        ([*INPAINT, "--clip_skip", "0"], "--clip_skip: got 0, expected a number from 1 to 64"),
        ([*INPAINT, "--attention", "flash"], "--attention: got 'flash', expected one of auto, sdpa, sliced, math"),
        ([*INPAINT, "--offload", "all"], "--offload: got 'all', expected one of none, model"),
        ([*INPAINT, "--offload", "model", "--device", "cpu"], "--offload model has no effect with --device cpu"),
        ([*SPARSE, "--offload", "model", "--device", "cuda"], "--offload model does not go with --run_type sige"),
        ([*INPAINT, "--control_image", "e.png"], "--control_image has no effect without --controlnet"),
        ([*INPAINT, "--control_scale", "1"], "--control_scale has no effect without --controlnet"),
        ([*INPAINT, "--controlnet", "c"], "--control_image is missing: --controlnet follows a picture"),
        ([*INPAINT, *CONTROL, "--control_scale", "0"], "--control_scale: got 0.0, expected a number above 0, up to 10"),
        ([*TEXT, *CONTROL], "--controlnet has no effect with --task text2img, only with inpainting"),
        ([*SPARSE, *CONTROL, "--policy", "lockstep"], "--policy lockstep gives latents .* take temporal"),
        ([*SPARSE, *CONTROL, "--session", "s"], "--controlnet does not go with --session"),
        (
            [*INPAINT, *CONTROL, "--negative_target_size", "8x8"],
            "--negative_target_size has no effect with --controlnet",
        ),
        # what becomes of pictures
        ([*INPAINT, "--grow", "-1"], "--grow: got -1, expected a number of pixels from 0 to 1024"),
        ([*INPAINT, "--mask_blur", "300"], "--mask_blur: got 300, expected a number of pixels from 0 to 256"),
        ([*INPAINT, "--only_masked", "9999"], "--only_masked: got 9999"),
        ([*IMAGE, "--grow", "4"], "--grow has no effect with --task img2img, which has no mask"),
        ([*SDEDIT, "--mask_blur", "4"], "--mask_blur has no effect with --task sdedit"),
        ([*TEXT, "--only_masked", "4"], "--only_masked has no effect with --task text2img"),
        ([*SPARSE, "--only_masked", "4", "--session", "s"], "--only_masked does not go with --session"),
        ([*INPAINT, "--only_masked", "4", "--W", "100"], "--H and --W: expected multiples of 8 for the part"),
        ([*INPAINT, "--n", "0"], "--n: got 0, expected a number of pictures from 1 to 1000"),
        ([*INPAINT, "--n", "2", "--seed", str(2**63 - 1)], "--seed: got 9223372036854775807, but --n 2 pictures"),
        ([*SPARSE, "--n", "2", "--session", "s"], "--n does not go with --session"),
        # what has no effect
        ([*INPAINT, "--ddim_eta", "0.5", "--scheduler", "euler"], "--ddim_eta has no effect with --scheduler euler"),
        ([*TURBO, "--ddim_eta", "0.5"], "--ddim_eta has no effect with --scheduler euler-ancestral: take ddim"),
        ([*TURBO, "--negative_prompt", "x"], "--negative_prompt has no effect at --scale 0, which is no guidance"),
        (
            [*INPAINT, "--scale", "1", "--negative_target_size", "8x8"],
            "--negative_target_size has no effect at --scale 1",
        ),
        ([*INPAINT, "--policy", "temporal"], "--policy has no effect with --run_type original"),
        ([*INPAINT, "--dense_steps", "5"], "--dense_steps has no effect with --run_type original"),
        ([*SPARSE, "--policy", "lockstep", "--preset", "fast"], "--preset has no effect with --policy lockstep"),
        ([*INPAINT, "--skipped_steps", "3"], "--skipped_steps has no effect with --run_type original"),
        ([*TURBO, "--forecast", "none"], "--forecast has no effect with --run_type turbo"),
        ([*INPAINT, "--dilation", "0"], "--dilation has no effect with --run_type original"),
        ([*SPARSE, "--policy", "lockstep", "--dense_steps", "5"], "--dense_steps has no effect with --policy lockstep"),
        ([*SPARSE, "--policy", "lockstep", "--schedule", "even"], "--schedule has no effect with --policy lockstep"),
        ([*SPARSE, "--policy", "lockstep", "--forecast", "none"], "--forecast has no effect with --policy lockstep"),
        ([*SPARSE, "--dense_steps", "0,5", "--schedule", "even"], "--schedule has no effect beside a list"),
        # token merging
        ([*INPAINT, "--tome_ratio", "0.8"], r"--tome_ratio: got 0.8, expected a number from 0 to 0.75"),
        ([*INPAINT, "--tome_ratio", "-1"], "--tome_ratio: got -1, expected a number from 0"),
        ([*INPAINT, "--tome_ratio", "much"], "--tome_ratio: got 'much', expected a number"),
        ([*INPAINT, "--tome_ratio", "0.5", "--tome_sx", "0"], "--tome_sx: got 0, expected a number from 1 to 64"),
        ([*INPAINT, "--tome_ratio", "0.5", "--tome_max_downsample", "3"], "--tome_max_downsample: got 3, expected one"),
        ([*INPAINT, "--tome_sy", "2"], "--tome_sy has no effect without --tome_ratio: name a ratio"),
        ([*INPAINT, "--tome_use_rand", "False"], "--tome_use_rand has no effect without --tome_ratio"),
        ([*INPAINT, "--tome_ratio", "0", "--tome_merge_mlp"], "--tome_merge_mlp has no effect at --tome_ratio 0"),
        ([*INPAINT, "--tome_ratio", "0.5", "--tome_merge_attn", "no"], "--tome_merge_attn: off, as"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.match(f"error: .*{message}", err), err


def test_mistakes_and_help_load_nothing_heavy() -> None:
    code = (
        "import sys, io, contextlib\n"
        "from sdxl.commands.main import main\n"
        "statuses = []\n"
        "for words in (['--help'], ['--xyzzy'], ['--task', 'inpaint'], ['--run_type', 'sige', '--task', 'text2img'],\n"
        "              ['--prompt', 'x', '--init_img', 'no.png', '--mask_path', 'no.npy', '--output_path', 'x.png']):\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "        try:\n"
        "            statuses.append(main(words))\n"
        "        except SystemExit as stopped:\n"
        "            statuses.append(stopped.code)\n"
        "heavy = ('torch', 'diffusers', 'transformers', 'sige.ops')\n"
        "print(statuses, [name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[0, 2, 2, 2, 2] []\n"


def test_run_py_passes_the_status_on() -> None:
    done = subprocess.run([sys.executable, "run.py", "--xyzzy"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --xyzzy: no such flag; see --help\n"


# ---- what goes wrong later -------------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(settings: Settings) -> str:
        raise error

    monkeypatch.setattr("sdxl.commands.tasks.run", fail)


def test_ctrl_c_is_one_line_and_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert main(INPAINT) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_our_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from sige.errors import ConfigError, UnsupportedError

    errors = (InputError, CheckpointError, ConfigError, UnsupportedError)
    for error in errors:
        failing(monkeypatch, error("what:\n got this"))
        assert main(INPAINT) == 2
    assert capsys.readouterr().err == "error: what: got this\n" * len(errors)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ],
)
def test_out_of_memory_is_one_line_with_advice(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, error)
    assert main([*INPAINT, "--refined", "True", "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: not enough memory with --device cpu: take a smaller --H and --W")
    assert "--dtype bf16" in line
    assert "no --refined" in line


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), RuntimeError("a bug"), OSError("a bug")])
def test_a_bug_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, error)
    with pytest.raises(type(error), match="a bug"):
        main(INPAINT)


# ---- --from_png ------------------------------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "made.png"
    settings = parse([*SPARSE, "--seed", "7", "--dense_steps", "0,3", "--lora", "l.safetensors"])
    save_png(Image.new("RGB", (8, 8)), path, settings.to_dict())
    return path


def test_a_png_gives_its_settings_back(picture: Path) -> None:
    settings = parse(["--from_png", str(picture), "--trust_png"])
    made = parse([*SPARSE, "--seed", "7", "--dense_steps", "0,3", "--lora", "l.safetensors"])
    assert settings.to_dict() == made.to_dict()
    assert settings.output_path == picture.with_name("made-again.png")  # the picture itself stays


def test_flags_beside_it_win(picture: Path) -> None:
    settings = parse(
        ["--from-png", str(picture), "--trust-png", "--seed", "8", "--output_path", "c.png", "--prompt", "a cow"]
    )
    assert (settings.seed, settings.output_path, settings.prompt) == (8, Path("c.png"), "a cow")
    assert settings.dense_steps == (0, 3)


def test_flags_beside_it_are_checked_with_it(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from_png", str(picture), "--trust_png", "--policy", "lockstep"]) == 2
    assert "--dense_steps has no effect with --policy lockstep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"promt": "x"}, "carries 'promt'"),
        ({"steps": "many"}, "--ddim_steps: got 'many'"),
        ({"mode": "profile"}, "carries 'mode'"),
        ({}, "--init_img is missing"),
    ],
)
def test_a_png_of_someone_else_is_refused(
    settings: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_png(Image.new("RGB", (8, 8)), tmp_path / "made.png", settings)
    assert main(["--from_png", str(tmp_path / "made.png")]) == 2
    assert message in capsys.readouterr().err


def test_a_png_without_settings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("plain.png", "array.npy", "missing.png"):
        assert main(["--from_png", str(tmp_path / name)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") for line in lines)


def test_what_is_saved_is_json(picture: Path) -> None:
    with Image.open(picture) as image:
        texts = image.text  # type: ignore[attr-defined]
    assert json.loads(texts["sige"])["prompt"] == "a horse"


def test_status_numbers() -> None:
    assert (MISTAKE, cli.INTERRUPTED) == (2, 130)


@pytest.mark.parametrize("words", [["run.py", *INPAINT], ["train.py", "--config", "configs/train/sdxl-lora.yaml"]])
def test_a_python_without_the_packages_is_told_in_one_line(words: list[str]) -> None:
    """The system's own Python is such a one, beside the .venv that make sets up; -S leaves out installed packages."""
    done = subprocess.run([sys.executable, "-S", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: the package ") and "source .venv/bin/activate" in done.stderr


@pytest.mark.parametrize("flag", ["--prompt", "--negative_prompt", "--prompt_2", "--negative_prompt_2"])
def test_a_prompt_that_is_no_utf8_is_refused_before_weights_are_looked_for(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such bytes reach Python as lone surrogates, and once a tokenizer as an error of its own."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    np.save("m.npy", np.ones((8, 8), dtype=bool))
    assert main([*INPAINT, flag, "caf\udce9"]) == 2
    assert capsys.readouterr().err == f"error: {flag}: holds bytes that are no UTF-8, expected text: type it again\n"


@pytest.mark.parametrize(
    "flag", ["--weight_path", "--config_path", "--lora", "--init_img", "--session", "--output_path"]
)
def test_a_name_that_no_disk_takes_is_one_line(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--run_type", "sige"] if flag == "--session" else []
    assert main([*INPAINT, *more, flag, f"{'a' * 5000}.png"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1 and len(line) < 1200
