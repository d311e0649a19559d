"""LoRA files and learned words on top of a pipeline; from local files only."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from sdxl.errors import InputError
from sdxl.pipelines.lora import attach, check_strength

__all__ = ["add_lora", "add_words"]

logger = logging.getLogger(__name__)

# The names under which files for SDXL keep a word's vectors: one for each of its text encoders.
ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}


def add_lora(pipe: Any, file: str, strength: float = 1.0) -> None:
    """Adds a LoRA file, or a folder that holds one under diffusers' name, to those that the pipeline has already.

    A file of which the model has no layer is refused; where it has a part of them, a warning says how many.
    """
    path = _existing("lora", file)
    check_strength(file, strength)
    with _explained("lora", file):
        matched = attach(pipe, path, strength)
    if not matched.found:
        raise InputError(
            f"lora: {file}: the model has none of its {matched.layers} layers: take a LoRA for this model, or the "
            "model that it was made for",
            "lora",
        )
    if matched.found < matched.layers:
        said = "lora: %s: the model has %d of its %d layers; the others are left out"
        logger.warning(said, file, matched.found, matched.layers)


def add_words(pipe: Any, file: str) -> None:
    """Loads a learned word; a file for SDXL serves one encoder or both, told apart by their names or their widths.

    The word is the one that the file holds, or else the name of the file.
    """
    path = _existing("textual_inversion", file)
    with _explained("textual_inversion", file):
        vectors = _read(path)
        for name, vector in vectors.items():
            encoder = _encoder_for(pipe, name, vector)
            word = path.stem if name in (*ENCODERS, "emb_params", "*") else name
            tokenizer = getattr(pipe, encoder.replace("text_encoder", "tokenizer"))
            pipe.load_textual_inversion(
                {word: vector}, token=word, text_encoder=getattr(pipe, encoder), tokenizer=tokenizer
            )


def _read(path: Path) -> Mapping[str, Tensor]:  # name -> [vectors, width] or [width]
    """The vectors of a .safetensors file, or of a .pt or .bin file, from which only tensors are read."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load

        content: Any = load(path.read_bytes())
    else:
        import torch

        content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, dict) and "string_to_param" in content:  # the format of the first programs for this
        content = content["string_to_param"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError("expected vectors by name")
    return content


def _encoder_for(pipe: Any, name: str, vector: Tensor) -> str:
    widths = {}
    for encoder in ENCODERS.values():
        model = getattr(pipe, encoder, None)
        if model is not None:
            widths[encoder] = model.get_input_embeddings().weight.shape[1]
    wanted = [ENCODERS[name]] if name in ENCODERS else [e for e, width in widths.items() if width == vector.shape[-1]]
    if not wanted or widths.get(wanted[0]) != vector.shape[-1]:
        have = ", ".join(map(str, widths.values()))
        raise ValueError(f"its vectors are {vector.shape[-1]} wide, expected {have}")
    return wanted[0]


def _existing(field: str, file: str) -> Path:
    path = Path(file)
    if not path.exists():
        raise InputError(f"{field}: {file} does not exist", field)
    return path


@contextmanager
def _explained(field: str, file: str) -> Iterator[None]:
    """Inside, an error that a library raises about a file becomes an `InputError` of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())
        raise InputError(f"{field}: {file} does not fit this model: {why[:200]}", field) from error
