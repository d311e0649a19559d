"""A checkpoint in the diffusers layout: a folder with a config and weights for each part."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdxl.checkpoint.configs import FULL_SIZE, PARTS
from sdxl.checkpoint.header import Header, read_header
from sdxl.checkpoint.keys import Entry
from sdxl.checkpoint.models import build_part
from sdxl.checkpoint.sources import Opened, Source
from sdxl.errors import CheckpointError, InputError

__all__ = ["INDEX", "is_model_folder", "open_folder", "open_part", "part_sources", "read_json"]

INDEX = "model_index.json"
CONFIG = "config.json"
MOST_BYTES = 1_000_000  # of a file in JSON; real ones have a few thousand
VARIANT_KEY = "_sige_config"  # names the config of the shapes, for other sizes than the full one
STEMS = dict.fromkeys(("unet", "vae", "controlnet"), "diffusion_pytorch_model")
TEXT_STEM = "model"
# The names of the VAE's attention in older folders.
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def is_model_folder(path: Path) -> bool:
    return (path / INDEX).is_file()


def open_folder(folder: Path) -> Opened:
    """The checkpoint in a diffusers folder. Its shapes come from the folder's own configs; no weight is read."""
    if not is_model_folder(folder):
        raise InputError(f"{folder}: has no {INDEX}, expected a diffusers folder or the path of a .safetensors file")
    index = read_json(folder / INDEX)
    shapes = {part: read_json(folder / part / CONFIG) for part in PARTS if _has(index, part)}
    if absent := [part for part in ("unet", "vae") if part not in shapes]:
        raise CheckpointError(f"{folder / INDEX}: names no {absent[0]}; take a folder of SDXL or Stable Diffusion 1.5")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    models = {part: build_part(part, shape, folder / part / CONFIG) for part, shape in shapes.items()}
    sources = [source for part, model in models.items() for source in _part_sources(folder / part, part, model)]
    return Opened(_kind(folder, shapes, scheduler), str(index.get(VARIANT_KEY, FULL_SIZE)), models, sources, scheduler)


def _has(index: Mapping[str, Any], part: str) -> bool:
    entry = index.get(part)
    return isinstance(entry, list) and len(entry) == 2 and None not in entry


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of the folder."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("too large")
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing; download the whole folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({type(error).__name__}); download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: is a {type(content).__name__}, expected a JSON object; download it again")
    return content


def _kind(folder: Path, shapes: Mapping[str, Mapping[str, Any]], scheduler: Mapping[str, Any]) -> str:
    unet = shapes["unet"]
    channels = unet.get("in_channels", 4)
    if channels not in (4, 9):
        raise CheckpointError(f"{folder}: has a UNet with {channels} input channels, expected 4, or 9 for inpainting")
    if unet.get("addition_embed_type") != "text_time":
        if unet.get("use_linear_projection"):
            raise CheckpointError(f"{folder}: is Stable Diffusion 2; take SDXL or Stable Diffusion 1.5")
        return "sd15-inpaint" if channels == 9 else "sd15"
    if "text_encoder" not in shapes:
        return "sdxl-refiner"
    if channels == 9:
        return "sdxl-inpaint"
    ancestral = scheduler.get("_class_name") == "EulerAncestralDiscreteScheduler"
    turbo = "turbo" in folder.name.lower() or (ancestral and scheduler.get("timestep_spacing") == "trailing")
    return "sdxl-turbo" if turbo else "sdxl-base"


def open_part(folder: Path, part: str) -> tuple[dict[str, Any], Any, list[Source]]:
    """One part in a folder of its own: its configuration, the model without weights, and the files that fill it."""
    config = read_json(folder / CONFIG)
    model = build_part(part, config, folder / CONFIG)
    return config, model, _part_sources(folder, part, model)


def _part_sources(folder: Path, part: str, model: Any) -> list[Source]:
    return part_sources([read_header(path) for path in _weight_files(folder, STEMS.get(part, TEXT_STEM))], part, model)


def part_sources(headers: Sequence[Header], part: str, model: Any) -> list[Source]:
    """The files of a part with their entries. A key that no file has counts as missing from the first file."""
    where = {name: position for position, header in enumerate(headers) for name in header.tensors}
    entries: list[list[Entry]] = [[] for _ in headers]
    for key, tensor in model.state_dict().items():
        name = next((name for name in _spellings(key) if name in where), key)
        shape = tuple(tensor.shape)
        projection = bool(re.search(r"\.(proj_in|proj_out|to_[qkv]|to_out\.0)\.weight$", key)) and len(shape) in (2, 4)
        entries[where.get(name, 0)].append(Entry(part, name, (key,), shape, projection=projection))
    return list(zip(headers, entries, strict=True))


def _weight_files(folder: Path, stem: str) -> list[Path]:
    """The files of a part's weights: the plain file, else the fp16 one, else the pieces of either."""
    for name in (stem, f"{stem}.fp16"):
        if (folder / f"{name}.safetensors").is_file():
            return [folder / f"{name}.safetensors"]
    for name in (stem, f"{stem}.fp16", f"{stem}*"):
        if pieces := sorted(folder.glob(f"{name}-?????-of-?????*.safetensors")):
            count = int(re.findall(r"-of-(\d{5})", pieces[0].name)[0])
            if len(pieces) != count:
                raise CheckpointError(f"{folder}: has {len(pieces)} of {count} files of weights; download the rest")
            return pieces
    raise CheckpointError(f"{folder}: has no {stem}.safetensors; download the folder with its .safetensors files")


def _spellings(key: str) -> list[str]:
    """All names of a key: transformers put `text_model.` in front until 5.6; older folders rename the attention."""
    spellings = [key, f"text_model.{key}", key.removeprefix("text_model.")]
    for new, old in OLD_ATTENTION.items():
        if f".attentions.0.{new}." in key:
            spellings.append(key.replace(f".{new}.", f".{old}."))
    return spellings
