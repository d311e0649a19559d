"""The teacher of a distilled model: it solves noise into pictures in many guided steps, and the results are kept.

caption i, noise i ─ guided steps of a good solver ─▶ latents i ─▶ trajectories.safetensors, a part at a time
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sdxl.training.batches import Batch, Example, Sizes
from sdxl.training.denoiser import Denoiser
from sdxl.training.pictures import Pictures
from sdxl.training.plan import Distil
from sdxl.training.processes import processes
from sige.files import atomic_write

__all__ = ["Trajectories", "kept_trajectories", "solve"]

logger = logging.getLogger(__name__)

_RECIPE = 1  # raise it when this file makes other trajectories from the same weights
_MADE_OF = "made of"
_AT_ONCE = 16 * 32 * 32  # latent positions of one pass, each guided
_PART = 256  # trajectories between two writes of the file: what a stop can cost


@torch.no_grad()
def solve(teacher: Denoiser, batch: Batch, config: Distil, scheduler: dict[str, Any]) -> Tensor:  # [B, C, h, w]
    """The latents that the teacher makes of the batch's noise, by DPM-Solver++ and guidance."""
    from diffusers import DPMSolverMultistepScheduler

    solver = DPMSolverMultistepScheduler.from_config(scheduler, timestep_spacing="trailing")
    solver.set_timesteps(config.teacher_steps)
    guided = [teacher.encode(_with(batch, dropped)) for dropped in (False, True)]
    latents = batch.noise * solver.init_noise_sigma
    for timestep in solver.timesteps:
        times = timestep.to(latents.device).expand(len(latents))
        new, plain = (teacher.noise_in(latents, times, text).float() for text in guided)
        latents = solver.step(plain + config.guidance * (new - plain), timestep, latents).prev_sample
    return latents  # type: ignore[no-any-return]


def _with(batch: Batch, dropped: bool) -> Batch:
    return Batch(batch.latents, batch.noise, batch.timesteps, batch.sizes,
                 torch.full_like(batch.dropped, dropped), batch.captions)  # fmt: skip


def kept_trajectories(
    teacher: Denoiser, pictures: Pictures, path: Path, config: Distil, scheduler: dict[str, Any], seed: int
) -> Trajectories:
    """The trajectories in the file. Those that are missing are made first, and written part by part.

    The first process solves while the others wait.
    """
    with processes().main_process_first():
        wanted = _digest(teacher, pictures, config, seed)
        ends = _read(path, wanted)
        if ends is None and path.is_file():
            logger.warning("%s was made of other captions, settings or weights: solving anew", path)
        first = 0 if ends is None else len(ends)
        bar = tqdm(total=len(pictures), initial=first, desc="solving", disable=None)
        for start in range(first, len(pictures), _PART):
            numbers = range(start, min(start + _PART, len(pictures)))
            made = _solved(teacher, pictures, config, scheduler, seed, numbers, bar)
            ends = made if ends is None else torch.cat([ends, made])
            _write(path, ends, wanted)
        bar.close()
    assert ends is not None
    return Trajectories(ends, pictures, seed)


def _solved(
    teacher: Denoiser,
    pictures: Pictures,
    config: Distil,
    scheduler: dict[str, Any],
    seed: int,
    numbers: range,
    bar: tqdm[Any],
) -> Tensor:  # fp16 [N, C, h, w]
    device: Any = teacher.alphas.device
    height, width = (side // 8 for side in pictures.size)
    some = max(_AT_ONCE // (height * width), 1)
    made = []
    for start in range(numbers.start, numbers.stop, some):
        group = range(start, min(start + some, numbers.stop))
        noise = torch.stack([_noise(seed, number, (_channels(teacher), height, width)) for number in group])
        batch = Batch(
            latents=noise,
            noise=noise,
            timesteps=torch.zeros(len(group), dtype=torch.int64),
            sizes=torch.tensor([_sizes(pictures)] * len(group), dtype=torch.float32),
            dropped=torch.zeros(len(group), dtype=torch.bool),
            captions=[_caption(pictures, seed, number) for number in group],
        )
        made.append(solve(teacher, batch.to(device), config, scheduler).half().cpu())
        bar.update(len(group))
    return torch.cat(made)


def _channels(teacher: Denoiser) -> int:
    return int(teacher.unet.config.in_channels)


def _noise(seed: int, number: int, shape: tuple[int, int, int]) -> Tensor:  # [C, h, w]
    return torch.from_numpy(np.random.default_rng([10, seed, number]).standard_normal(shape, dtype=np.float32))


def _caption(pictures: Pictures, seed: int, number: int) -> str:
    return pictures.caption(number, np.random.default_rng([11, seed, number]))


def _sizes(pictures: Pictures) -> Sizes:
    return (*pictures.size, 0, 0, *pictures.size)


# ---- the file --------------------------------------------------------------------------------------------------------


def _digest(teacher: Denoiser, pictures: Pictures, config: Distil, seed: int) -> str:
    """The digest of everything that the trajectories depend on; the captions are among it."""
    captions = [_caption(pictures, seed, number) for number in range(len(pictures))]
    facts = [_RECIPE, list(pictures.size), captions, config.guidance, config.teacher_steps, seed]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for name, tensor in teacher.models.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, wanted: str) -> Tensor | None:  # fp16 [N, C, h, w]
    """The trajectories in the file, as far as they were made; None where it is missing or of other settings."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            if dict(file.metadata() or {}).get(_MADE_OF) == wanted:
                return file.get_tensor("ends")  # type: ignore[no-any-return]
    except (SafetensorError, OSError):
        pass
    return None


def _write(path: Path, ends: Tensor, wanted: str) -> None:
    from safetensors.torch import save_file

    with atomic_write(path) as temporary:
        save_file({"ends": ends}, temporary, {_MADE_OF: wanted})


class Trajectories:
    """The kept trajectories as a source of examples: the noise, the caption, and what the teacher made of them."""

    def __init__(self, ends: Tensor, pictures: Pictures, seed: int) -> None:  # fp16 [N, C, h, w]
        self.ends, self.pictures, self.seed = ends, pictures, seed

    def __len__(self) -> int:
        return len(self.ends)

    def example(self, index: int, rng: np.random.Generator) -> Example:
        """The trajectory with that number; `rng` is not used."""
        ends = self.ends[index].float()
        caption = _caption(self.pictures, self.seed, index)
        return Example(ends, caption, _sizes(self.pictures), noise=_noise(self.seed, index, tuple(ends.shape)))  # type: ignore[arg-type]
