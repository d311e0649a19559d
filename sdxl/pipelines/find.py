"""Finds the weights that a model's name means. Importable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdxl.checkpoint.embedded import EMBEDDED, embedded_kind, embedded_weights
from sdxl.errors import InputError

__all__ = ["MODELS", "TINY", "Weights", "find", "kind_of"]

TINY = "tiny"  # random weights, made on the first call
MODELS = {  # name -> kind, for the models whose files a user has
    "sdxl": "sdxl-base",
    "sdxl-inpaint": "sdxl-inpaint",
    "sd15": "sd15",
}


@dataclass(frozen=True)
class Weights:
    """Weights that were found: their kind and their place."""

    model: str  # the name that they were asked for by
    kind: str  # one of checkpoint.configs.KINDS
    path: Path  # a file or a diffusers folder


def find(model: str, run_type: str, weight_path: Path, *, refiner: bool = False, task: str = "text2img") -> Weights:
    """The place of a model's weights, or of those of its refiner; reads none of them."""
    turbo = "turbo" in run_type
    if turbo and model not in ("auto", "sdxl", EMBEDDED, TINY):
        raise InputError(f"model: got {model}, expected sdxl, embedded or tiny: {run_type} needs a turbo", "model")
    if model == EMBEDDED:
        kind = "sdxl-refiner" if refiner else embedded_kind(task, turbo)
        return Weights(model, kind, embedded_weights(kind))
    kind = "sdxl-refiner" if refiner else "sdxl-turbo" if turbo else MODELS.get(model, "sdxl-base")
    if model == TINY:
        from sdxl.checkpoint.tiny import tiny_weights

        return Weights(model, kind, tiny_weights(kind))
    from sdxl.checkpoint.find import find_weights

    return Weights(model, kind, find_weights(weight_path, kind))


def kind_of(file: Path) -> str:
    """The kind of a single file, from its header."""
    from sdxl.checkpoint.header import read_header
    from sdxl.checkpoint.kinds import identify

    return identify(read_header(file)).kind
