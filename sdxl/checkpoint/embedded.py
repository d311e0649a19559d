"""The model that comes with the project: SDXL's topology, small, trained on drawings of 256x256."""

from __future__ import annotations

from pathlib import Path

from sdxl.errors import CheckpointError
from sige.config_files import data_folder

__all__ = ["EMBEDDED", "FILES", "embedded_folder", "embedded_kind", "embedded_weights"]

EMBEDDED = "embedded"  # the name of the model, and of the config of its shapes
FILES = {
    "sdxl-base": "base.safetensors",
    "sdxl-inpaint": "inpaint.safetensors",
    "sdxl-turbo": "turbo.safetensors",
    "sdxl-refiner": "refiner.safetensors",
}


def embedded_folder() -> Path:
    """The folder of the embedded model: `assets/embedded` in a source tree, `sdxl/embedded` in an installation."""
    return data_folder(Path(__file__).resolve().parents[1] / EMBEDDED, f"assets/{EMBEDDED}")


def embedded_weights(kind: str = "sdxl-base") -> Path:
    """The file with the weights of a kind, which has the tokenizers beside it.

    >>> embedded_weights("sd15")
    Traceback (most recent call last):
    sdxl.errors.CheckpointError: the embedded model has no sd15 weights, only sdxl-base, sdxl-inpaint, sdxl-turbo, \
sdxl-refiner
    """
    if kind not in FILES:
        raise CheckpointError(f"the embedded model has no {kind} weights, only {', '.join(FILES)}")
    path = embedded_folder() / FILES[kind]
    if not path.is_file():
        there = ", ".join(name for name in FILES.values() if path.with_name(name).is_file()) or "nothing"
        raise CheckpointError(
            f"{path} does not exist: of the embedded model there is {there}; train it as docs/training.md says and "
            "run tools/embed.py, or take the model tiny, which has random weights"
        )
    return path


def embedded_kind(task: str, turbo: bool = False) -> str:
    """The kind of embedded weights for a task: its own for inpainting if they exist, else the base, which does all.

    A turbo does all tasks, inpainting by blending.
    """
    if turbo:
        return "sdxl-turbo"
    inpaints = task == "inpainting" and (embedded_folder() / FILES["sdxl-inpaint"]).is_file()
    return "sdxl-inpaint" if inpaints else "sdxl-base"
