"""Repeats the edit that wrote a picture: which of its settings are read back, and which only from a trusted picture.

Pictures come from anywhere. A setting that this module does not name is never read from one: it could overwrite a file,
or load weights that someone else chose.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdxl.commands.fields import Fields
from sdxl.commands.rules import flag
from sdxl.errors import InputError

__all__ = ["HARMLESS", "PATHS", "repeated"]

HARMLESS = (  # they decide what is painted, and name nothing but pictures to read
    "task",
    "run_type",
    "refined",
    "model",
    "prompt",
    "negative_prompt",
    "prompt_2",
    "negative_prompt_2",
    "clip_skip",
    "init_img",
    "mask_path",
    "edited_img",
    "height",
    "width",
    "grow",
    "mask_blur",
    "match_edge",
    "only_masked",
    "steps",
    "scale",
    "eta",
    "strength",
    "keep",
    "seed",
    "scheduler",
    "denoising_split",
    "original_size",
    "target_size",
    "crops_coords_top_left",
    "negative_original_size",
    "negative_target_size",
    "negative_crops_coords_top_left",
    "policy",
    "preset",
    "dense_steps",
    "skipped_steps",
    "half_steps",
    "outer_steps",
    "schedule",
    "forecast",
    "dilation",
    "control_image",
    "control_scale",
    "dtype",
    "attention",
    "tome_ratio",
    "tome_max_downsample",
    "tome_sx",
    "tome_sy",
    "tome_use_rand",
    "tome_merge_attn",
    "tome_merge_crossattn",
    "tome_merge_mlp",
)
PATHS = (
    "config_path",
    "weight_path",
    "lora",
    "textual_inversion",
    "vae",
    "controlnet",
)  # what is loaded: with --trust_png alone
MACHINE = ("device", "offload")  # of the machine that wrote it: with --trust_png alone, else this machine's own


def repeated(source: Path, said: Mapping[str, Any], trusted: bool) -> dict[str, Any]:
    """The picture's settings, overridden by the command line's; the output has another name than the picture."""
    from sdxl.pictures.png import read_settings

    carried = read_settings(source)
    for name in carried:
        if name not in (*HARMLESS, *PATHS, *MACHINE):
            raise InputError(
                f"{source} carries {name!r}, which no picture of this program does: give the flags instead"
            )
    if not trusted:
        _refuse_paths(source, carried, said)
    kept = {name: value for name, value in carried.items() if trusted or name in HARMLESS}
    return {"output_path": source.with_name(f"{source.stem}-again.png")} | kept | dict(said)


def _refuse_paths(source: Path, carried: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    """Refuses a picture that names other files than this command would load: without them it is another picture."""
    for name in PATHS:
        if name in carried and name not in said and carried[name] != _default(name):
            raise InputError(
                f"{source} names {flag(name)} {_short(carried[name])}, which a picture from elsewhere must not choose: "
                f"give {flag(name)}, or add --trust_png if you know who made it"
            )


def _default(name: str) -> Any:
    """The value that a command has without the flag, as a picture carries it."""
    default: Any = Fields.__dataclass_fields__[name].default
    if isinstance(default, Path):
        return str(default)
    return list(default) if isinstance(default, tuple) else default


def _short(value: object) -> str:
    """The value as a text; a list that is nested a thousand times has none of Python's own."""
    return value if isinstance(value, str) else reprlib.repr(value)
