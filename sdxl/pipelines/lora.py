"""LoRA files: their strength, the layers of them that a model has, and how they are attached.

Importable without torch, so that a wrong strength is found before anything is loaded.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdxl.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["STRONGEST", "Matched", "attach", "check_strength", "with_strength"]

STRONGEST = 10.0
UNET, ENCODERS = "unet", ("text_encoder", "text_encoder_2")


def with_strength(text: str) -> tuple[str, float]:
    """The file and the strength of `FILE` or `FILE:strength`; a file whose own name holds the colon is taken whole.

    >>> with_strength("style.safetensors:0.8")
    ('style.safetensors', 0.8)
    """
    file, colon, number = text.rpartition(":")
    if not colon or "/" in number or os.path.exists(text):
        return text, 1.0
    try:
        strength = float(number)
    except ValueError:
        file = ""
    if not file:
        raise InputError(f"lora: got {text!r}, expected FILE or FILE:strength, as style.safetensors:0.8", "lora")
    check_strength(file, strength)
    return file, strength


def check_strength(file: str, strength: float) -> None:
    """Refuses a strength without effect, and one that is no number or far too large."""
    if not (isfinite(strength) and 0 < abs(strength) <= STRONGEST):
        raise InputError(
            f"lora: got the strength {strength:g} for {file}, expected a number from {-STRONGEST:g} to {STRONGEST:g} "
            "that is not 0: leave the file out for none",
            "lora",
        )


@dataclass(frozen=True)
class Matched:
    """The number of a file's layers, and how many of them the model has."""

    layers: int
    found: int


def attach(pipe: Any, path: Path, strength: float) -> Matched:
    """Attaches the file's layers that the model has, beside those of earlier files, and returns their number.

    Where the model has none of them, it stays as it is.
    """
    state, alphas, metadata = _read(pipe, path)
    parts = {name: part for name in (UNET, *ENCODERS) if (part := getattr(pipe, name, None)) is not None}
    layers = {key: _layer_name(key) for key in state}
    kept: dict[str, Tensor] = {}
    found = 0
    for name, part in parts.items():
        fitting, count = _fitting(name, part, state)
        kept |= fitting
        found += count
    matched = Matched(len(set(layers.values())), found)
    if found:
        _load(pipe, parts, kept, {"network_alphas": alphas, "metadata": metadata}, strength)
    return matched


def _read(pipe: Any, path: Path) -> tuple[dict[str, Tensor], Any, Any]:
    """The tensors under diffusers' names, their alphas, and the file's own description of its layers, if any."""
    folder, options = (path, {}) if path.is_dir() else (path.parent, {"weight_name": path.name})
    if hasattr(pipe, "text_encoder_2"):  # SDXL's blocks are numbered otherwise in files of other programs
        options |= {"unet_config": pipe.unet.config}
    state, alphas, metadata = pipe.lora_state_dict(
        str(folder), **options, local_files_only=True, return_lora_metadata=True
    )
    if not state or not all("lora" in key for key in state):
        raise ValueError("it holds other tensors than those of a LoRA")
    return state, alphas, metadata


def _layer_name(key: str) -> str:
    """What the tensors of one layer have in common in their names, in any of the spellings."""
    return key.partition(".lora_")[0].partition(".lora.")[0].partition("_lora.")[0]


def _fitting(name: str, part: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """The tensors whose layer the part has, in that size, and the number of these layers."""
    own = {key: tensor for key, tensor in state.items() if key.startswith(f"{name}.")}
    spelled = _spelled(name, part, {key.removeprefix(f"{name}."): tensor for key, tensor in own.items()})
    modules = dict(part.named_modules())
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in spelled.items():
        layer, _, factor = key.partition(".lora_")
        layers.setdefault(layer, {})[factor] = tensor
    fits = {layer for layer, factors in layers.items() if _fits(modules.get(layer), factors)}
    pairs = zip(own.items(), spelled, strict=True)
    return {key: tensor for (key, tensor), new in pairs if new.partition(".lora_")[0] in fits}, len(fits)


def _spelled(name: str, part: nn.Module, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under peft's names, in the same order."""
    from diffusers.utils import state_dict_utils as spelling

    if not own or "lora_A" in next(iter(own)):
        spelled = own
    elif name == UNET:
        spelled = spelling.convert_unet_state_dict_to_peft(own)
    else:
        spelled = spelling.convert_state_dict_to_peft(spelling.convert_state_dict_to_diffusers(own))
    if name == UNET or hasattr(part, "text_model"):
        return spelled
    return {key.removeprefix("text_model."): tensor for key, tensor in spelled.items()}  # transformers from 5.6 on


def _fits(module: Any, factors: Mapping[str, Tensor]) -> bool:
    """Says whether the two factors multiply to the size of the module's weight."""
    weight = getattr(getattr(module, "base_layer", module), "weight", None)
    down, up = factors.get("A.weight"), factors.get("B.weight")
    if weight is None or weight.dim() < 2 or down is None or up is None:
        return False
    return bool(up.shape[0] == weight.shape[0] and down.shape[1] == weight.shape[1] and up.shape[1] == down.shape[0])


def _load(
    pipe: Any, parts: Mapping[str, Any], kept: dict[str, Tensor], described: dict[str, Any], strength: float
) -> None:
    name, before = _new_name(parts.values()), _active(parts.values())
    options: dict[str, Any] = {**described, "adapter_name": name, "_pipeline": pipe}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several are what is wanted
        for part in (part for part in parts if any(key.startswith(f"{part}.") for key in kept)):
            if part == UNET:
                pipe.load_lora_into_unet(kept, unet=parts[part], **options)
            else:
                pipe.load_lora_into_text_encoder(kept, text_encoder=parts[part], prefix=part, **options)
    for layer in _tuned(parts.values()):
        layer.set_adapter([*before, name])  # loading one leaves only that one active
        layer.set_scale(name, strength)


def _tuned(models: Iterable[nn.Module]) -> list[Any]:
    """The layers that some LoRA is attached to."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for model in models for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _active(models: Iterable[nn.Module]) -> list[str]:
    """The names of the LoRA that take part now."""
    return list(dict.fromkeys(name for layer in _tuned(models) for name in layer.active_adapters))


def _new_name(models: Iterable[Any]) -> str:
    used = {name for model in models for name in getattr(model, "peft_config", {})}
    return next(name for number in range(len(used) + 1) if (name := f"lora_{number}") not in used)
