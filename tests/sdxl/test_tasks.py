"""From a command to a picture: every flag has its effect, the issue's examples run, no file is left half-written."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdxl.checkpoint import find
from sdxl.checkpoint.load import load
from sdxl.commands import rules
from sdxl.commands.inputs import load_inputs
from sdxl.commands.main import main
from sdxl.commands.requests import make_request
from sdxl.commands.settings import Settings
from sdxl.edits import calling, sampling
from sdxl.pictures.png import read_settings
from sdxl.pipelines import load as pipelines
from sdxl.pipelines.find import Weights
from sdxl.pipelines.schedulers import default_scheduler
from sige import Lockstep, Temporal, tome

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
Pixels = Callable[[Path], bytes]
INPAINT = ["--prompt", "a horse", "--init_img", "before.png", "--mask_path", "mask.npy", "--ddim_steps", "4"]
SDEDIT = ["--task", "sdedit", "--prompt", "a horse", "--edited_img", "edited.png", "--ddim_steps", "3"]
TEXT = ["--task", "text2img", "--prompt", "a horse", "--ddim_steps", "4", "--H", "64", "--W", "64"]
IMAGE = ["--task", "img2img", "--prompt", "a horse", "--init_img", "before.png", "--ddim_steps", "3"]
NEGATIVE = ["--negative_prompt", "blurred"]
REFINED = ["--refined", "True"]
SIGE = ["--run_type", "sige", "--ddim_steps", "6"]
TOME = ["--tome_ratio", "0.5"]
BESIDE = ["--init_img", "before.png"]

EXAMPLES = [
    'python run.py --prompt "a photograph of a horse on a grassland" --output_path inpainting-sige.png '
    "--init_img assets/inpainting/original/0.png --mask_path assets/inpainting/masks/0.npy --W 1024 --seed 53 "
    "--config_path configs --weight_path pretrained --run_type sige --refined True",
    'python run.py --task sdedit --prompt "A fantasy landscape, trending on artstation" '
    "--output_path img2img-sige0.png --init_img assets/img2img/original/0.png "
    "--edited_img assets/img2img/edited/0.png --seed 11 --config_path configs --run_type sige-turbo",
]


@pytest.fixture(scope="module")
def parts() -> dict[tuple[Any, ...], Any]:
    """Models that a test has loaded already; no run changes them."""
    return {}


@pytest.fixture
def run(
    project: Path, tmp_path: Path, pixels: Pixels, parts: dict[tuple[Any, ...], Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., bytes]:
    """Runs a command and returns the pixels that it wrote."""

    def load_once(path: Path, **options: Any) -> Any:
        key = (path, *options.values())
        if key not in parts:
            parts[key] = load(path, **options)
        return parts[key]

    monkeypatch.setattr("sdxl.checkpoint.load.load", load_once)

    def run(*words: str, seed: str | None = "5") -> bytes:
        out = tmp_path / "out.png"
        seeded = [] if seed is None else ["--seed", seed]
        assert main([*words, *seeded, "--output_path", str(out)]) == 0
        for part in parts.values():
            tome.remove(part.unet)
        return pixels(out)

    return run


@pytest.fixture(scope="module")
def known() -> dict[tuple[str, ...], bytes]:
    """Pictures that commands wrote, with which several tests compare."""
    return {}


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes loading fail the test: a mistake must be found before."""

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(pipelines, "load_weights", load)
    yield


# ---- the examples of the issue ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", EXAMPLES, ids=["inpainting", "sdedit"])
def test_the_examples_run_as_they_stand(
    command: str,
    project_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("assets", "configs", "pretrained"):
        (tmp_path / name).symlink_to(project_folder / name)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    assert words[:2] == ["python", "run.py"]
    words += [] if "sige-turbo" in command else ["--ddim_steps", "12"]  # of 50; turbo takes 4
    assert main(words[2:]) == 0
    out, err = capfd.readouterr()
    (path,) = tmp_path.glob("*.png")
    assert out.startswith(f"wrote {path.name}: ")
    assert " dense, " in out and " packed" in out
    assert "it/s" in err or "s/it" in err  # the rate of the steps
    image = Image.open(path)
    given = Image.open(words[words.index("--init_img") + 1])
    assert (image.size, image.mode) == (given.size, "RGB")
    if "--mask_path" in words:
        outside = np.load(words[words.index("--mask_path") + 1]) == 0
        before, after = np.asarray(given.convert("RGB")), np.asarray(image)
        assert np.array_equal(before[outside], after[outside])
        assert not np.array_equal(before[~outside], after[~outside])


def test_tiny_needs_no_weights(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIGE_CACHE", str(tmp_path / "cache"))
    words = ["--model", "tiny", "--weight_path", "nowhere", "--config_path", str(CONFIGS), "--run_type", "sige"]
    assert main([*INPAINT, *words, "--output_path", str(tmp_path / "out.png")]) == 0
    assert read_settings(tmp_path / "out.png")["model"] == "tiny"


# ---- every flag has its effect ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (INPAINT, ["--prompt", "a cow"]),
        (INPAINT, ["--prompt_2", "a cow"]),
        (INPAINT, ["--prompt", "a (horse:1.5)"]),
        (INPAINT, ["--prompt", "a horse" + " on the grass" * 40]),
        (INPAINT, ["--clip_skip", "1"]),
        (INPAINT, ["--grow", "8"]),
        (INPAINT, ["--mask_blur", "6"]),
        (INPAINT, ["--only_masked", "8"]),
        ([*INPAINT, *SIGE], ["--only_masked", "8"]),
        ([*INPAINT, "--only_masked", "8"], ["--H", "128"]),
        (INPAINT, NEGATIVE),
        ([*INPAINT, *NEGATIVE], ["--negative_prompt_2", "dark"]),
        (INPAINT, ["--init_img", "other.png"]),
        (INPAINT, ["--mask_path", "half.png"]),
        (INPAINT, ["--H", "72"]),
        (INPAINT, ["--W", "64"]),
        (INPAINT, ["--ddim_steps", "5"]),
        (INPAINT, ["--ddim_eta", "0.7"]),
        (INPAINT, ["--scale", "2"]),
        (INPAINT, ["--strength", "0.7"]),
        (INPAINT, ["--seed", "6"]),
        (INPAINT, ["--dtype", "bf16"]),
        (INPAINT, ["--original_size", "512x512"]),
        (INPAINT, ["--target_size", "512x512"]),
        (INPAINT, ["--crops_coords_top_left", "64,0"]),
        ([*INPAINT, *NEGATIVE], ["--negative_original_size", "8x8"]),
        ([*INPAINT, *NEGATIVE], ["--negative_target_size", "8x8"]),
        ([*INPAINT, *NEGATIVE], ["--negative_crops_coords_top_left", "64,0"]),
        (INPAINT, REFINED),
        ([*INPAINT, *REFINED], ["--denoising_split", "0.5"]),
        (INPAINT, ["--run_type", "turbo"]),
        (INPAINT, ["--run_type", "sige"]),
        ([*INPAINT, "--run_type", "turbo"], ["--run_type", "sige-turbo"]),
        (INPAINT, ["--model", "sdxl-inpaint"]),
        (INPAINT, ["--model", "sd15"]),
        ([*INPAINT, *SIGE], ["--policy", "lockstep"]),
        ([*INPAINT, *SIGE], ["--dense_steps", "4"]),
        ([*INPAINT, *SIGE], ["--dense_steps", "0,1,5"]),
        ([*INPAINT, *SIGE, "--dense_steps", "3"], ["--schedule", "even"]),
        ([*INPAINT, *SIGE, "--dense_steps", "3"], ["--forecast", "none"]),
        ([*INPAINT, *SIGE], ["--dilation", "2"]),
        (INPAINT, ["--tome_ratio", "0.5"]),
        ([*INPAINT, *SIGE], ["--tome_ratio", "0.5"]),
        ([*INPAINT, "--model", "sd15"], ["--tome_ratio", "0.5"]),
        ([*INPAINT, *TOME], ["--tome_ratio", "0.25"]),
        ([*INPAINT, *TOME], ["--tome_max_downsample", "4"]),
        ([*INPAINT, *TOME], ["--tome_sx", "4"]),
        ([*INPAINT, *TOME], ["--tome_sy", "1"]),
        ([*INPAINT, *TOME], ["--tome_use_rand", "False"]),
        ([*INPAINT, *TOME], ["--tome_merge_crossattn", "True"]),
        ([*INPAINT, *TOME], ["--tome_merge_mlp", "True"]),
        ([*INPAINT, *TOME, "--tome_merge_mlp", "True"], ["--tome_merge_attn", "False"]),
        (SDEDIT, ["--edited_img", "other.png"]),
        (SDEDIT, ["--strength", "0.4"]),
        ([*SDEDIT, *BESIDE], ["--run_type", "sige"]),
        ([*SDEDIT, *BESIDE, *SIGE], ["--init_img", "other.png"]),
        (IMAGE, ["--strength", "0.4"]),
        (IMAGE, ["--init_img", "other.png"]),
        (TEXT, ["--prompt", "a cow"]),
        (TEXT, ["--W", "72"]),
        (TEXT, ["--run_type", "turbo"]),
        (TEXT, REFINED),
        (TEXT, ["--original_size", "512x512"]),
        ([*TEXT, *NEGATIVE], ["--negative_original_size", "8x8"]),
        ([*TEXT, *NEGATIVE], ["--negative_target_size", "8x8"]),
        ([*TEXT, *NEGATIVE], ["--negative_crops_coords_top_left", "64,0"]),
        ([*SDEDIT, *NEGATIVE], ["--negative_crops_coords_top_left", "64,0"]),
    ],
    ids=lambda words: " ".join(words[-2:]),
)
def test_a_flag_changes_the_picture(
    words: list[str], more: list[str], run: Callable[..., bytes], known: dict[tuple[str, ...], bytes]
) -> None:
    if tuple(words) not in known:
        known[tuple(words)] = run(*words)
    assert run(*words, *more, seed=None if "--seed" in more else "5") != known[tuple(words)]


def test_every_scheduler_gives_a_picture_of_its_own(run: Callable[..., bytes]) -> None:
    pictures = {name: run(*INPAINT, "--scheduler", name) for name in rules.NAMES["scheduler"]}
    assert len(set(pictures.values())) == len(pictures)
    assert pictures["ddim"] == run(*INPAINT)


def as_array(pixels: bytes) -> np.ndarray:  # [values]
    return np.frombuffer(pixels, dtype=np.uint8).astype(int)


def test_extras_change_the_picture(project: Path, tmp_path: Path, pixels: Pixels) -> None:
    random = torch.Generator().manual_seed(0)
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    factors = {"lora_A": (4, 32), "lora_B": (32, 4)}
    lora = {f"{layer}.{name}.weight": torch.randn(shape, generator=random) for name, shape in factors.items()}
    save_file(lora, tmp_path / "lora.safetensors")
    save_file({"<cat>": torch.randn(1, 24, generator=random)}, tmp_path / "cat.safetensors")

    def made(*words: str) -> bytes:
        out = tmp_path / "out.png"
        assert main([*INPAINT, "--seed", "1", *words, "--output_path", str(out)]) == 0
        return pixels(out)

    words = ["--run_type", "sige"]
    assert made(*words, "--lora", str(tmp_path / "lora.safetensors")) != made(*words)
    weak, both = f"{tmp_path / 'lora.safetensors'}:0.5", ["--lora", *[f"{tmp_path / 'lora.safetensors'}:0.5"] * 2]
    once = made(*words, "--lora", str(tmp_path / "lora.safetensors"))
    assert made(*words, "--lora", weak) not in (once, made(*words))
    assert np.abs(as_array(made(*words, *both)) - as_array(once)).max() <= 1  # two halves, but for the rounding
    made(*words, "--lora", weak)
    again = tmp_path / "again.png"
    assert main(["--from_png", str(tmp_path / "out.png"), "--trust_png", "--output_path", str(again)]) == 0
    assert pixels(again) == pixels(tmp_path / "out.png")
    words = ["--model", "sd15", "--prompt", "a <cat>"]
    assert made(*words, "--textual_inversion", str(tmp_path / "cat.safetensors")) != made(*words)


def test_flags_about_weights_and_machine_reach_the_loader(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Weights, dict[str, Any]]] = []

    def load(weights: Weights, **options: Any) -> Any:
        calls.append((weights, options))
        raise KeyboardInterrupt

    (tmp_path / "w").symlink_to(project / "pretrained")
    for name in ("l.safetensors", "t.safetensors"):
        save_file({"x": torch.zeros(1)}, tmp_path / name)
    monkeypatch.setattr(pipelines, "load_weights", load)
    files = [str(tmp_path / name) for name in ("l.safetensors", "t.safetensors")]
    words = ["--weight_path", str(tmp_path / "w"), "--config_path", "elsewhere", "--dtype", "fp16", "--device", "cpu"]
    words += ["--lora", files[0], "--textual_inversion", files[1], "--scheduler", "unipc", "--model", "sdxl"]
    assert main([*INPAINT, *words, "--output_path", str(tmp_path / "out.png")]) == 130
    assert calls == [
        (
            Weights("sdxl", "sdxl-base", tmp_path / "w" / "sd_xl_base_1.0.safetensors"),
            {
                "task": "inpainting",
                "config_path": Path("elsewhere"),
                "device": "cpu",
                "dtype": torch.float16,
                "scheduler": "unipc",
                "lora": (files[0],),
                "textual_inversion": (files[1],),
                "vae": None,
                "controlnet": None,
                "attention": "auto",
                "offload": "none",
            },
        )
    ]


def test_weights_are_looked_up_once(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    inner = find.find_weights

    def spy(path: Path, kind: str) -> Path:
        looked.append(kind)
        return inner(path, kind)

    monkeypatch.setattr(find, "find_weights", spy)
    assert main([*INPAINT, *REFINED, "--output_path", str(tmp_path / "out.png")]) == 0
    assert looked == ["sdxl-base", "sdxl-refiner"]


def test_turbo_takes_few_steps_without_guidance(run: Callable[..., bytes], capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in INPAINT if word not in ("--ddim_steps", "4")]
    run(*words, "--run_type", "turbo")
    assert "4 steps at scale 0 in" in capsys.readouterr().out


def test_a_sparse_run_says_how_much_it_computed(run: Callable[..., bytes], capsys: pytest.CaptureFixture[str]) -> None:
    run(*INPAINT, "--run_type", "sige", "--ddim_steps", "6", "--dense_steps", "2")
    out = capsys.readouterr().out
    assert "6 steps at scale 7.5 in" in out
    assert "2 dense, 4 packed" in out
    share = int(out.partition("% of the dense work")[0].rpartition(" ")[2])
    assert 100 * 2 / 6 < share < 100


# ---- the same again --------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes(project: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.png", "b.png")]
    for file in files:
        assert main([*INPAINT, "--run_type", "sige", "--seed", "9", "--output_path", str(file)]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_png_repeats_itself_bit_for_bit(project: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.png"
    words = [*SDEDIT, *BESIDE, "--run_type", "sige", "--ddim_eta", "0.3", "--scale", "3", "--output_path", str(made)]
    assert main(words) == 0  # the seed is drawn
    before = made.read_bytes()
    assert main(["--from_png", str(made)]) == 0
    assert made.read_bytes() == before == (tmp_path / "made-again.png").read_bytes()
    assert main(["--from_png", str(made), "--scale", "4", "--output_path", str(tmp_path / "other.png")]) == 0
    assert (tmp_path / "other.png").read_bytes() != before


def test_the_png_says_what_auto_meant(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([*INPAINT, "--output_path", str(tmp_path / "out.png")]) == 0
    settings = read_settings(tmp_path / "out.png")
    assert (settings["model"], settings["device"], settings["dtype"]) == ("sdxl", "cpu", "fp32")
    assert isinstance(settings["seed"], int)
    assert settings["init_img"] == "before.png"
    assert json.dumps(settings)


# ---- mistakes, before the weights ------------------------------------------------------------------------------------


def fails(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("missing/x.png", "the folder missing does not exist"),
        ("/dev/null/x.png", "/dev/null/x.png"),
        ("before.png/x.png", "before.png"),
        ("configs", "expected a name that ends in .png"),
        ("x.jpg", "expected a name that ends in .png"),
    ],
)
def test_where_nothing_can_be_written(
    out: str, message: str, project: Path, no_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails([*INPAINT, "--output_path", out], capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--init_img", "none.png"], "none.png"),
        (["--mask_path", "none.npy"], "none.npy"),
        (["--mask_path", "assets/inpainting/masks/0.npy"], "512 high x 1024 wide, expected the size of the image, 64"),
        (["--weight_path", "configs", "--model", "sdxl"], "no sdxl-base weights.* hf download stabilityai/"),
        (["--weight_path", "nowhere", "--model", "sdxl"], "hf download"),
        (["--weight_path", "no.safetensors", "--run_type", "sige-turbo"], "no such file.* --model tiny runs without"),
        (["--lora", "none.safetensors"], "--lora: none.safetensors does not exist"),
        (["--lora", "none.safetensors:0.5"], "--lora: none.safetensors does not exist"),
        (["--vae", "none.safetensors"], "--vae: none.safetensors does not exist"),
        (["--controlnet", "none", "--control_image", "before.png"], "--controlnet: none does not exist"),
        (["--controlnet", ".", "--control_image", "none.png"], "none.png"),
        (["--textual_inversion", "none.bin"], "--textual_inversion: none.bin does not exist"),
    ],
)
def test_files_that_are_not_there_or_do_not_fit(
    words: list[str],
    message: str,
    project: Path,
    tmp_path: Path,
    no_weights: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert re.search(message, fails([*INPAINT, *words, "--output_path", str(tmp_path / "x.png")], capsys))
    assert list(tmp_path.iterdir()) == []


def test_the_refiner_is_looked_for_before_the_base_is_loaded(
    project: Path, tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    base = project / "pretrained" / "sd_xl_base_1.0.safetensors"
    (tmp_path / base.name).symlink_to(base)
    words = [*INPAINT, *REFINED, "--weight_path", str(tmp_path), "--output_path", str(tmp_path / "x.png")]
    assert "no sdxl-refiner weights" in fails(words, capsys)


def test_pictures_of_two_sizes(
    project: Path, tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "small.png")
    words = [*SDEDIT, "--init_img", str(tmp_path / "small.png"), "--output_path", str(tmp_path / "x.png")]
    assert "expected the size of" in fails(words, capsys)


def test_a_sparse_sdedit_of_the_same_picture(
    project: Path, tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SDEDIT, "--init_img", "edited.png", "--run_type", "sige", "--output_path", str(tmp_path / "x.png")]
    assert re.search("--edited_img .*: there is nothing to edit", fails(words, capsys))


def test_a_gpu_that_is_not_there(
    project: Path,
    tmp_path: Path,
    no_weights: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:3"):
        words = [*INPAINT, "--device", device, "--output_path", str(tmp_path / "x.png")]
        assert f"--device {device}: torch sees 0 GPUs here; take --device cpu" in fails(words, capsys)


def test_an_empty_mask_gives_the_picture_back_without_weights(
    project: Path, tmp_path: Path, no_weights: None, pixels: Pixels
) -> None:
    np.save(tmp_path / "empty.npy", np.zeros((64, 96), dtype=bool))
    words = [*INPAINT, "--mask_path", str(tmp_path / "empty.npy"), "--output_path", str(tmp_path / "x.png")]
    assert main(words) == 0
    assert pixels(tmp_path / "x.png") == pixels(project / "before.png")


# ---- interrupted -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("run_type", ["original", "sige"])
def test_a_run_that_ends_early_writes_nothing(
    error: BaseException,
    run_type: str,
    project: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers import DDIMScheduler

    step, taken = DDIMScheduler.step, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        taken.append(1)
        if len(taken) == 2:
            raise error
        return step(*args, **kwargs)

    monkeypatch.setattr(DDIMScheduler, "step", interrupted)
    out = tmp_path / "out.png"
    out.write_bytes(b"what was there before")
    words = [*INPAINT, "--run_type", run_type, "--output_path", str(out)]
    assert main(words) == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert len(taken) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "interrupted" or last.startswith("error: not enough memory with --device")
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]
    assert out.read_bytes() == b"what was there before"


# ---- sizes -----------------------------------------------------------------------------------------------------------


def settings(**said: Any) -> Settings:
    return Settings(prompt="x", output_path=Path("x.png"), **said)


def test_sizes_default_to_the_picture_s_own(project: Path) -> None:
    inputs = load_inputs(settings(init_img=Path("before.png"), mask_path=Path("mask.npy")))
    assert inputs.image is not None and inputs.mask is not None
    assert (inputs.image.size, inputs.mask.shape) == ((96, 64), (64, 96))


def test_the_mask_is_resized_with_its_picture(project: Path) -> None:
    inputs = load_inputs(settings(init_img=Path("before.png"), mask_path=Path("mask.npy"), height=128, width=48))
    assert inputs.image is not None and inputs.mask is not None
    assert (inputs.image.size, inputs.mask.shape) == ((48, 128), (128, 48))
    expected = np.zeros((128, 48), dtype=np.float32)
    expected[32:80, 12:30] = 1
    assert np.array_equal(inputs.mask, expected)


def test_a_mask_may_have_the_size_that_is_asked_for(project: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.ones((128, 48), dtype=bool))
    said = {"init_img": Path("before.png"), "mask_path": tmp_path / "mask.npy"}
    inputs = load_inputs(settings(**said, height=128, width=48))
    assert inputs.mask is not None and inputs.mask.shape == (128, 48)


def test_a_thin_stroke_survives_shrinking(project: Path, tmp_path: Path) -> None:
    mask = np.zeros((64, 96), dtype=np.float32)
    mask[:, 33] = 1
    np.save(tmp_path / "mask.npy", mask)
    inputs = load_inputs(settings(init_img=Path("before.png"), mask_path=tmp_path / "mask.npy", height=16, width=24))
    assert inputs.mask is not None and (inputs.mask[:, 8] > 0).all()


def test_odd_sizes_are_computed_and_said(
    run: Callable[..., bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(*INPAINT, "--H", "61", "--W", "93")
    assert Image.open(tmp_path / "out.png").size == (93, 61)
    assert "61x93 is worked on as 64x96" in caplog.text


# ---- the same numbers in two places ----------------------------------------------------------------------------------


def test_the_rules_know_the_defaults_of_the_parts_that_they_speak_for() -> None:
    assert rules.STRENGTH is sampling.STRENGTH == {"inpainting": 1.0, "sdedit": 0.8, "img2img": 0.8}
    assert rules.REFINER_STRENGTH is calling.REFINER_STRENGTH is sampling.REFINER_STRENGTH
    assert default_scheduler("sdxl-turbo") == "euler-ancestral"
    assert default_scheduler("sdxl-base") == "ddim"


def test_what_is_said_of_the_policy_reaches_the_engine(project: Path) -> None:
    given = {"init_img": Path("before.png"), "mask_path": Path("mask.npy"), "run_type": "sige"}
    said = settings(**given, dense_steps=5, forecast="linear", dilation=0)
    assert make_request(said, load_inputs(said)).policy == Temporal(dense_steps=5, forecast="linear", dilation=0)
    said = settings(**given, policy="lockstep", dilation=2)
    policy = make_request(said, load_inputs(said)).policy
    assert isinstance(policy, Lockstep) and asdict(policy) == asdict(Lockstep(dilation=2))
    said = settings(**given)
    assert make_request(said, load_inputs(said)).policy == Temporal()


# ---- token merging ---------------------------------------------------------------------------------------------------


def test_merging_is_repeated_from_the_picture_and_ratio_0_is_the_plain_picture(
    run: Callable[..., bytes], tmp_path: Path
) -> None:
    plain, merged = run(*INPAINT), run(*INPAINT, *TOME, "--tome_use_rand", "False")
    saved = read_settings(tmp_path / "out.png")
    assert (saved["tome_ratio"], saved["tome_use_rand"]) == (0.5, False) and "tome_sx" not in saved
    (tmp_path / "out.png").rename(tmp_path / "merged.png")
    assert run("--from_png", str(tmp_path / "merged.png")) == merged != plain
    assert run(*INPAINT, "--tome_ratio", "0") == plain


def test_a_level_without_attention_is_refused_before_weights_are_read(
    project: Path, tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TOME, "--tome_max_downsample", "1", "--output_path", str(tmp_path / "out.png")]
    assert main([*INPAINT, *words]) == 2
    message = "error: --tome_max_downsample: got 1, but sdxl-base has no attention at that level"
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)


def test_the_line_at_the_end_says_that_tokens_merged(
    run: Callable[..., bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    run(*INPAINT, *TOME)
    assert "tokens merged at ratio 0.5" in capsys.readouterr().out
