"""Measures a refiner against its base where little noise is left: held-out scenes, noised and made clean again.

    python -m benchmarks.refiner [--refiner FILE] [--base FILE] [--count 50] [--scale 4] [--json OUT]
                                 [--grid OUT.png]

Two tables. The first has the mean squared error of the noise that each model predicts, by timestep, with the caption
and without guidance: what both were trained for. The second has PSNR to the scene of whole runs of diffusers' own
pipelines: image to image from a strength on, by the base and by the refiner, and from text, where the refiner takes the
last fifth of the steps; there the score is the share of flat pixels, because every colour of a drawing covers an area.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import sdxl
from benchmarks.harness import Row, machine, print_table, write_json
from benchmarks.prompts import held_out
from benchmarks.quality.metrics import psnr
from sdxl.checkpoint.embedded import embedded_weights
from sdxl.checkpoint.load import Parts, load
from sdxl.pictures.panels import Panel, sheet
from sdxl.pictures.panels import Row as PanelRow
from sdxl.pipelines.load import make_pipeline
from sdxl.scenes.draw import draw
from sdxl.training.batches import Batch
from sdxl.training.denoiser import Denoiser
from sdxl.training.pictures import as_pixels

SIDE = 256
TIMESTEPS = (10, 50, 100, 150, 199, 250, 299)
STRENGTHS = (0.2, 0.3)
SPLIT = 0.8
STEPS = 30
AT_ONCE = 10
SHOWN = 4  # pictures of each run in the grid


@torch.no_grad()
def noise_errors(parts: Parts, count: int) -> Row:
    """The mean squared errors of the predicted noise by timestep; the same noise for every model."""
    from diffusers import DDIMScheduler

    models = {name: model for name, model in parts.models().items() if name != "vae"}
    words = {name: getattr(parts, name.replace("text_encoder", "tokenizer")) for name in models if "text" in name}
    model = Denoiser(models, words, DDIMScheduler.from_config(parts.scheduler_config).alphas_cumprod)
    row: Row = {"model": parts.kind}
    for timestep in TIMESTEPS:
        errors = [
            _errors(model, parts.vae, timestep, range(n, min(n + AT_ONCE, count))) for n in range(0, count, AT_ONCE)
        ]
        row[f"t {timestep}"] = float(torch.cat(errors).mean())
    return row


def _errors(model: Denoiser, vae: Any, timestep: int, numbers: range) -> Tensor:  # [B]
    asked = held_out(numbers.stop)[numbers.start :]
    pixels = torch.stack([as_pixels(draw(scene, SIDE)) for scene, _ in asked])
    latents = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor  # [B, C, h, w]
    noise = torch.stack([torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(n)) for n in numbers])
    batch = Batch(
        latents=latents,
        noise=noise,
        timesteps=torch.full((len(latents),), timestep),
        sizes=torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]] * len(latents), dtype=torch.float32),
        dropped=torch.zeros(len(latents), dtype=torch.bool),
        captions=[text for _, text in asked],
    )
    return (model.predict(model.noised(batch), batch) - noise).square().mean(dim=(1, 2, 3))


def again(pipe: Any, count: int, strength: float, scale: float) -> float:
    """Median PSNR to the scene of image to image from a strength on."""
    scores = []
    for number, (scene, text) in enumerate(tqdm(held_out(count), desc=f"strength {strength:g}", disable=None)):
        picture = draw(scene, SIDE)
        sampling = sdxl.Sampling(text, steps=STEPS, strength=strength, scale=scale, seed=number)
        result = sdxl.img2img(pipe, picture, sampling=sampling).image
        scores.append(psnr(np.asarray(result), np.asarray(picture), np.ones((SIDE, SIDE), dtype=bool)))
    return float(np.median(scores))


def flat(picture: Image.Image) -> float:
    """The share of pixels that differ by at most 4 of 255 from the pixel to the right and from the one below."""
    pixels = np.asarray(picture.convert("RGB")).astype(np.int16)
    across, down = np.abs(np.diff(pixels, axis=1)).max(axis=2)[:-1], np.abs(np.diff(pixels, axis=0)).max(axis=2)[:, :-1]
    return float((np.maximum(across, down) <= 4).mean())


def from_text(base: Any, refiner: Any, count: int, scale: float) -> list[Image.Image]:
    """Pictures from text."""
    pictures = []
    split = None if refiner is None else SPLIT
    for number, (_, text) in enumerate(tqdm(held_out(count), desc="from text", disable=None)):
        sampling = sdxl.Sampling(text, steps=STEPS, scale=scale, seed=number, denoising_split=split)
        pictures.append(sdxl.text2img(base, (SIDE, SIDE), sampling=sampling, refiner=refiner).image)
    return pictures


def mean_flat(pictures: Sequence[Image.Image]) -> float:
    """The mean share of flat pixels."""
    return float(np.mean([flat(picture) for picture in pictures]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--refiner", type=Path, metavar="FILE", help="a checkpoint (default: the embedded refiner)")
    parser.add_argument("--base", type=Path, metavar="FILE", help="a checkpoint (default: the embedded base)")
    parser.add_argument("--count", type=int, default=50, help="held-out scenes")
    parser.add_argument("--scale", type=float, default=4.0, help="guidance by the prompt")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures, machine and settings to OUT")
    parser.add_argument("--grid", type=Path, metavar="OUT.png", help=f"write the first {SHOWN} pictures of both to OUT")
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error("--count must be at least 1")
    base = load(options.base or embedded_weights(), dtype=torch.float32, progress=False)
    refiner = load(options.refiner or embedded_weights("sdxl-refiner"), dtype=torch.float32, progress=False)
    errors = [noise_errors(parts, options.count) for parts in (base, refiner)]
    print_table(errors)
    drawings = [draw(scene, SIDE) for scene, _ in held_out(options.count)]
    rows: list[Row] = [{"run": "the drawings themselves", "flat": mean_flat(drawings)}]
    pipes = {parts.kind: _quiet(make_pipeline(parts, "img2img")) for parts in (base, refiner)}
    for kind, pipe in pipes.items():
        scores = {f"dB, strength {s:g}": again(pipe, options.count, s, options.scale) for s in STRENGTHS}
        rows.append({"run": f"{kind}, image to image", **scores})
    painter = _quiet(make_pipeline(base, "text2img"))
    painted = {
        name: from_text(painter, second, options.count, options.scale)
        for name, second in (("base alone", None), ("base, then refiner", pipes["sdxl-refiner"]))
    }
    rows += [{"run": f"{name}, from text", "flat": mean_flat(pictures)} for name, pictures in painted.items()]
    columns = dict.fromkeys(key for row in rows for key in row)
    print_table([{key: row.get(key) for key in columns} for row in rows])
    if options.json:
        settings = {"count": options.count, "scale": options.scale, "steps": STEPS, "split": SPLIT}
        write_json(options.json, {"machine": machine(), "settings": settings, "noise": errors, "rows": rows})
    if options.grid:
        options.grid.parent.mkdir(parents=True, exist_ok=True)
        _grid(painted).save(options.grid)


def _grid(painted: dict[str, list[Image.Image]]) -> Image.Image:
    """The first pictures of each run, one run below the other."""
    captions = [text for _, text in held_out(SHOWN)]
    shown = {name: pictures[:SHOWN] for name, pictures in painted.items()}
    rows = [[Panel(one, f"{name}: {text}") for one, text in zip(shown[name], captions, strict=False)] for name in shown]
    return sheet([PanelRow(panels) for panels in rows], scale=1.25)


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


if __name__ == "__main__":
    main()
