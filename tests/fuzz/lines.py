"""Command lines: the words of each command are mutated, and the command runs up to where it would load a model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from sdxl.commands import convert, demo, export, inspect, main, profile, tasks, train
from sdxl.errors import InputError
from sdxl.training import stages
from tests.fuzz.corpus import RUN
from tests.fuzz.mutate import Rng, mutate_words
from tests.fuzz.target import Target

__all__ = ["COMMANDS", "stop_before_models"]


def stop_before_models(patch: Any) -> None:
    """Lets commands run up to where they would load or build models, which takes seconds; undone by the patch."""

    def stop(*_: Any, **__: Any) -> NoReturn:
        raise InputError("the harness stops here")

    for module, name in ((tasks, "choose_weights"), (profile, "_profile"), (demo, "inpainting"), (stages, "run")):
        patch.setattr(module, name, stop)


LINES: dict[str, tuple[Callable[[Sequence[str]], int], tuple[tuple[str, ...], ...]]] = {
    "run": (
        main.main,
        (
            RUN,
            ("--task", "sdedit", *RUN[:4], "--edited_img", "edited.png", "--output_path", "new.png"),
            ("--task", "text2img", "--prompt", "a", "--H", "64", "--W", "64", "--output_path", "new.png"),
            ("--task", "img2img", *RUN[:4], "--strength", "0.5", "--output_path", "new.png", "--scheduler", "euler"),
            (*RUN, "--session", "session"),
            ("--from_png", "made.png", "--seed", "3", "--output_path", "new.png"),
            ("--from_png", "made.png", "--trust_png"),
            ("--mode", "profile_unet", "--mask_path", "mask.png", "--macs_only", "--json", "new.json", "--runs", "2"),
            (*RUN, "--original_size", "512x1024", "--crops_coords_top_left", "0,0", "--lora", "a.safetensors"),
        ),
    ),
    "convert": (
        convert.main,
        (
            ("small.safetensors", "new.safetensors", "--projections", "conv", "--dtype", "fp16", "--force"),
            ("small.safetensors", "--dtype", "keep", "new.safetensors"),
        ),
    ),
    "export": (export.main, (("small.safetensors", "new.safetensors", "--dtype", "fp16", "--config_path", "configs"),)),
    "inspect": (inspect.main, (("small.safetensors",), ("tiny.safetensors", "--json"))),
    "train": (train.main, (("--config", "plan.yaml", "loop.steps=10", "data.side=32", "out=elsewhere"),)),
    "demo": (demo.main, (("--out", "demo", "--seed", "1", "--steps", "5", "--scale", "3", "--runs", "1"),)),
}
FLAGS = (
    "--task --run_type --mode --refined --from_png --trust_png --init_img --mask_path --edited_img --output_path "
    "--H --W --prompt --negative_prompt --prompt_2 --negative_prompt_2 --ddim_steps --scale --ddim_eta --strength "
    "--seed --scheduler --denoising_split --policy --preset --dense_steps --skipped_steps --half_steps "
    "--outer_steps --schedule --forecast --dilation --session --undo --budget --model --weight_path --config_path "
    "--keep --clip_skip --grow --mask_blur --match_edge --only_masked --n --vae --controlnet --control_image "
    "--control_scale --attention --offload --tome_ratio --tome_max_downsample --tome_sx --tome_sy --tome_use_rand "
    "--tome_merge_attn --lora --textual_inversion --device --dtype --original_size --target_size "
    "--crops_coords_top_left --negative_original_size --macs_only --runs --json --help --projections "
    "--in_place --force --out --steps --config -x --xyzzy"
).split()
VALUES = (
    "inpainting sdedit text2img img2img sige turbo sige-turbo original profile_encoder lockstep temporal fast".split()
)
WRITTEN = ("new.png", "new.json", "new.safetensors", "demo", "elsewhere", "trained", "made-again.png")


def _line(name: str) -> Target:
    command, lines = LINES[name]

    def make(corpus: Path, rng: Rng) -> bytes:
        words = mutate_words(rng.choice(lines), [*FLAGS, *VALUES] if name == "run" else FLAGS[-14:], rng)
        return json.dumps([_safe(word) for word in words]).encode()

    def run(case: bytes) -> object:
        try:
            return command(json.loads(case))
        finally:
            _remove(WRITTEN)

    return Target(name, 30 if name == "run" else 6, make, run)


def _safe(word: str) -> str:
    """The word without a path that leaves the folder of the corpus; a few that nothing can be written to stay."""
    name, equals, value = word.rpartition("=")
    if value.startswith("/") and value not in ("/", "/dev/null", "/nonexistent/x.png"):
        value = "." + value
    return name + equals + re.sub(r"(\.\./)+", "../", value)


def _remove(names: Sequence[str]) -> None:
    for name in names:
        path = Path(name)
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)


COMMANDS = tuple(map(_line, LINES))
