"""The latents of all pictures, encoded once and kept in a file: the encoder is the slow part of a small training."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sdxl.pictures.masks import latent_cells
from sdxl.training.batches import Example
from sdxl.training.pictures import Pictures
from sdxl.training.processes import processes
from sdxl.training.random_masks import random_mask
from sige.files import atomic_write
from sige.tensor_files import check_header_length

__all__ = ["Draws", "Latents", "at_once", "kept_latents", "mask_for"]

logger = logging.getLogger(__name__)

_RECIPE = 1  # raise it when this file makes other latents from the same pictures
_MADE_OF = "made of"
_CELL = 8  # pixels per latent position, along each side
_AT_ONCE = 16 * 256 * 256  # pixels that the VAE takes in one pass


@dataclass(frozen=True)
class Draws:
    """The latents to make from each picture."""

    masks: bool = False  # for inpainting: also the latents of the picture without its part under a random mask
    repeats: int = 1  # draws of each picture, each with another crop and another mask
    seed: int = 0


def kept_latents(vae: Any, pictures: Pictures, path: Path, draws: Draws, *, progress: bool = True) -> Latents:
    """The latents in the file. A file that is missing, or was made from anything else, is made first.

    The first process encodes while the others wait.
    """
    with processes().main_process_first():
        wanted = _digest(vae, pictures, draws)
        if path.is_file() and _noted(path) != wanted:
            logger.warning("%s was made of other pictures, settings or VAE weights: encoding anew", path)
        if not path.is_file() or _noted(path) != wanted:
            _make(path, vae, pictures, draws, wanted, progress)
    return Latents(path, pictures, vae.config.scaling_factor)


def _digest(vae: Any, pictures: Pictures, draws: Draws) -> str:
    """The digest of everything that the file's content depends on."""
    digest = hashlib.sha256(json.dumps([_RECIPE, pictures.describe(), asdict(draws)]).encode())
    for name, tensor in vae.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _noted(path: Path) -> str | None:
    """The digest in a file's metadata; None for a file that cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        check_header_length(path)
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {}).get(_MADE_OF)
    except (SafetensorError, OSError, ValueError):
        return None


def _make(path: Path, vae: Any, pictures: Pictures, draws: Draws, digest: str, progress: bool) -> None:
    from safetensors.torch import save_file

    vae.to(processes().device)
    try:
        tensors = _encode(vae, pictures, draws, progress)
    finally:
        vae.to("cpu")  # it is not needed any more, and the UNet needs the GPU's memory
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, {_MADE_OF: digest})


def _encode(vae: Any, pictures: Pictures, draws: Draws, progress: bool) -> dict[str, Tensor]:
    """Moments fp16 [N, 2C, h, w], sizes int64 [N, 6]; with masks also `masked`, as the moments, and bool `mask`."""
    count, step = len(pictures) * draws.repeats, at_once(pictures.size)
    kept: dict[str, Tensor] = {}
    for start in tqdm(range(0, count, step), desc="encoding", disable=None if progress else True):
        places = range(start, min(start + step, count))
        for name, values in _encode_some(vae, pictures, draws, places).items():
            if name not in kept:
                kept[name] = torch.empty((count, *values.shape[1:]), dtype=values.dtype)
            kept[name][places.start : places.stop] = values
    return kept


@torch.no_grad()
def _encode_some(vae: Any, pictures: Pictures, draws: Draws, places: range) -> dict[str, Tensor]:
    rngs = [np.random.default_rng([8, draws.seed, place]) for place in places]
    drawn = [pictures.picture(place % len(pictures), rng) for place, rng in zip(places, rngs, strict=True)]
    pixels = torch.stack([picture.pixels for picture in drawn]).to(vae.device)
    parts = {"moments": _moments(vae, pixels), "sizes": torch.tensor([picture.sizes for picture in drawn])}
    if draws.masks:
        mask = torch.stack([mask_for(rng, pictures.size) for rng in rngs]).to(vae.device)  # [B, 1, H, W]
        parts["masked"] = _moments(vae, pixels * (1 - mask))  # as diffusers' pipelines do it
        parts["mask"] = mask[:, :, ::_CELL, ::_CELL].bool()
    return parts


def _moments(vae: Any, pixels: Tensor) -> Tensor:  # [B, 3, H, W] -> fp16 [B, 2C, h, w]
    return vae.encode(pixels.to(vae.dtype)).latent_dist.parameters.half()  # type: ignore[no-any-return]


def mask_for(rng: np.random.Generator, size: tuple[int, int]) -> Tensor:  # [1, H, W]; 1 is painted anew
    """A random mask grown to whole latent cells, as `sdxl.edit` gives masks to a pipeline."""
    return torch.from_numpy(latent_cells(random_mask(rng, *size).astype(np.float32)).astype(np.float32))[None]


def at_once(size: tuple[int, int]) -> int:
    """The number of pictures of that height and width that go through the models in one pass.

    >>> at_once((256, 256)), at_once((1024, 1024))
    (16, 1)
    """
    return max(_AT_ONCE // (size[0] * size[1]), 1)


class Latents:
    """The file of `kept_latents` as a source of examples: each request draws new latents and a new caption."""

    def __init__(self, path: Path, pictures: Pictures, scaling_factor: float) -> None:
        from safetensors.torch import load_file

        tensors = load_file(path)
        self.moments = tensors["moments"]  # fp16 [N, 2C, h, w]
        self.sizes = tensors["sizes"]  # int64 [N, 6]
        self.masked, self.mask = tensors.get("masked"), tensors.get("mask")  # as moments, bool [N, 1, h, w]
        self.pictures = pictures
        self.scaling_factor = scaling_factor

    def __len__(self) -> int:
        return len(self.moments)

    def example(self, index: int, rng: np.random.Generator) -> Example:
        """The example of that draw. The first draws of all pictures come first, then the second draws, and so on."""
        extra: dict[str, Tensor] = {}
        if self.mask is not None and self.masked is not None:
            extra = {"mask": self.mask[index].float(), "masked": self._draw(self.masked[index], rng)}
        latents = self._draw(self.moments[index], rng)
        caption = self.pictures.caption(index % len(self.pictures), rng)
        height, width, top, left, target_height, target_width = self.sizes[index].tolist()
        return Example(latents, caption, (height, width, top, left, target_height, target_width), **extra)

    def _draw(self, moments: Tensor, rng: np.random.Generator) -> Tensor:  # [2C, h, w] -> [C, h, w]
        mean, log_variance = moments.float().chunk(2)
        noise = torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32))
        return self.scaling_factor * (mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise)
