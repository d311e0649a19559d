"""Finds a user's weights by the usual names of files and folders, and says what to download if there are none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdxl.checkpoint.configs import KINDS
from sdxl.checkpoint.folder import is_model_folder
from sdxl.errors import InputError

__all__ = ["FILE_NAMES", "find_weights"]


@dataclass(frozen=True)
class Known:
    """The usual names of one kind, the preferred ones first, and where to download it."""

    patterns: tuple[str, ...]  # of single files
    folders: tuple[str, ...]  # of diffusers folders
    repository: str
    file: str = ""  # the single file in the repository; without one, the folder is downloaded


SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
KNOWN = {
    "sdxl-base": Known(
        ("sd_xl_base_1.0.safetensors", "sd_xl_base_1.0_fp16.safetensors", "sd_xl_base_1.0_0.9vae.safetensors"),
        ("stable-diffusion-xl-base-1.0",),
        SDXL,
        "sd_xl_base_1.0.safetensors",
    ),
    "sdxl-turbo": Known(
        ("sd_xl_turbo_1.0.safetensors", "sd_xl_turbo_1.0_fp16.safetensors"),
        ("sdxl-turbo",),
        "stabilityai/sdxl-turbo",
        "sd_xl_turbo_1.0_fp16.safetensors",
    ),
    "sdxl-refiner": Known(
        ("sd_xl_refiner_1.0.safetensors", "sd_xl_refiner_1.0_fp16.safetensors", "sd_xl_refiner_1.0_0.9vae.safetensors"),
        ("stable-diffusion-xl-refiner-1.0",),
        "stabilityai/stable-diffusion-xl-refiner-1.0",
        "sd_xl_refiner_1.0.safetensors",
    ),
    "sdxl-inpaint": Known(
        ("sd_xl_base_1.0_inpainting*.safetensors",),
        ("stable-diffusion-xl-1.0-inpainting-0.1",),
        "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
    ),
    "sd15": Known(
        ("v1-5-pruned-emaonly.safetensors", "v1-5-pruned-emaonly-fp16.safetensors", "v1-5-pruned.safetensors"),
        ("stable-diffusion-v1-5",),
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "v1-5-pruned-emaonly.safetensors",
    ),
    "sd15-inpaint": Known(
        ("sd-v1-5-inpainting*.safetensors", "v1-5-inpainting*.safetensors"),
        ("stable-diffusion-inpainting", "stable-diffusion-v1-5-inpainting"),
        "stable-diffusion-v1-5/stable-diffusion-inpainting",
    ),
}
FILE_NAMES = {  # the names of the single files that we write
    "sdxl-base": "sd_xl_base_1.0.safetensors",
    "sdxl-turbo": "sd_xl_turbo_1.0_fp16.safetensors",
    "sdxl-refiner": "sd_xl_refiner_1.0.safetensors",
    "sdxl-inpaint": "sd_xl_base_1.0_inpainting_0.1.safetensors",
    "sd15": "v1-5-pruned-emaonly.safetensors",
    "sd15-inpaint": "sd-v1-5-inpainting.safetensors",
}


def find_weights(weight_path: Path | str, kind: str) -> Path:
    """The file or diffusers folder of `kind` in a folder, or `weight_path` itself where it is one.

    >>> find_weights(tiny_weights("sdxl-base").parent, "sdxl-base").name
    'sd_xl_base_1.0.safetensors'
    """
    path = Path(weight_path)
    if kind not in KINDS:
        raise InputError(f"kind: got {kind!r}, expected one of {', '.join(KINDS)}")
    if path.is_file() or is_model_folder(path):
        return path
    if path.suffix == ".safetensors":
        raise InputError(f"{path}: no such file; {_download(path.parent, kind)}")
    known = KNOWN[kind]
    for pattern in known.patterns:
        if files := sorted(file for file in path.glob(pattern) if file.is_file()):
            return files[0]
    for name in known.folders:
        if is_model_folder(path / name):
            return path / name
    names = " or ".join((*known.patterns[:2], f"{known.folders[0]}/"))
    raise InputError(f"{path}: no {kind} weights: looked for {names}; {_download(path, kind)}")


def _download(folder: Path, kind: str) -> str:
    known = KNOWN[kind]
    if known.file:
        return f"run: hf download {known.repository} {known.file} --local-dir {folder}"
    files = '--include "*.json" "*.txt" "*.fp16.safetensors"'
    return f"run: hf download {known.repository} {files} --local-dir {folder / known.folders[0]}"
