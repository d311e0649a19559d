"""Measures how often a model paints what the prompt says: captions of held-out scenes, judged by `prompt_check.py`.

    python -m benchmarks.prompts [--weights FILE] [--count 100] [--steps 25] [--scale 4] [--json OUT] [--grid OUT.png]
    python -m benchmarks.prompts --weights assets/embedded/turbo.safetensors --steps 4 --scale 0

A row has the shares of pictures in which the thing is found, and in which colour, place and thing are as asked. Three
rows stand beside the model's: the scenes' own drawings show how reliable the check is; the same drawings against
captions of other scenes show chance (1/8, 1/3, 1/6); the drawings after encoding and decoding show what the VAE allows.
`--drawings` stops after the first two of these rows and needs no weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from benchmarks.harness import Row, machine, print_table, write_json
from benchmarks.prompt_check import ASKED, Seen, look, matches
from sdxl.checkpoint.embedded import embedded_weights
from sdxl.checkpoint.load import Parts, load
from sdxl.errors import InputError
from sdxl.pictures.panels import Panel, sheet
from sdxl.pictures.panels import Row as PanelRow
from sdxl.pipelines.load import make_pipeline
from sdxl.scenes.draw import draw
from sdxl.scenes.numbered import HELD_OUT, scene_at
from sdxl.scenes.scene import Scene, caption
from sdxl.training.pictures import as_pixels

BATCH = 10
COLUMNS, SHOWN = 4, 16  # of the grid
SIDE = 256  # pixels along the side of a drawing, without a model
Judged = tuple[Scene, Seen | None]


def held_out(count: int) -> list[tuple[Scene, str]]:
    """The first held-out scenes, each with one of its captions."""
    scenes = [scene_at(HELD_OUT + number) for number in range(count)]
    return [(scene, caption(scene, np.random.default_rng([9, number]))) for number, scene in enumerate(scenes)]


@torch.no_grad()
def paint(parts: Parts, captions: Sequence[str], *, steps: int, scale: float, seed: int) -> list[Image.Image]:
    """A picture for each caption, at the model's size; each starts from other noise."""
    pipe, side = make_pipeline(parts, "text2img"), parts.unet.config.sample_size * 8
    pipe.set_progress_bar_config(disable=True)
    images: list[Image.Image] = []
    options: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": scale, "height": side, "width": side}
    for start in tqdm(range(0, len(captions), BATCH), desc="painting", disable=None):
        prompts = list(captions[start : start + BATCH])
        noise = [torch.Generator().manual_seed(seed + start + place) for place in range(len(prompts))]
        images += pipe(prompts, generator=noise, output_type="pil", **options).images
    return images


@torch.no_grad()
def through_vae(vae: Any, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """The pictures after encoding and decoding."""
    images: list[Image.Image] = []
    for start in range(0, len(pictures), BATCH):
        pixels = torch.stack([as_pixels(picture) for picture in pictures[start : start + BATCH]])  # [B, 3, H, W]
        again = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        values = ((again.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        images += [Image.fromarray(value) for value in values]
    return images


# ---- figures ---------------------------------------------------------------------------------------------------------


def judge(pictures: Sequence[Image.Image], scenes: Sequence[Scene]) -> list[Judged]:
    """Each scene that was asked for, with the thing that its picture shows."""
    pairs = zip(pictures, scenes, strict=True)
    return [(scene, look(picture, scene.sky, scene.ground)) for picture, scene in pairs]


def shares(name: str, judged: Sequence[Judged]) -> Row:
    """A row of the table: the shares of pictures with the right colour, place, thing, and all three."""
    right = [matches(seen, scene) for scene, seen in judged]
    row: Row = {"pictures": name, "count": len(judged)}
    row["found"] = sum(seen is not None for _, seen in judged) / len(judged)
    row |= {what: sum(each[what] for each in right) / len(right) for what in ASKED}
    row["all three"] = sum(all(each.values()) for each in right) / len(right)
    return row


def grid(pictures: Sequence[Image.Image], captions: Sequence[str], judged: Sequence[Judged]) -> Image.Image:
    """The first pictures with their captions; where the check disagrees, the caption says what it has seen."""
    panels = [
        Panel(picture, text + _objection(*verdict))
        for picture, text, verdict in zip(pictures[:SHOWN], captions[:SHOWN], judged[:SHOWN], strict=True)
    ]
    rows = [PanelRow(panels[start : start + COLUMNS]) for start in range(0, len(panels), COLUMNS)]
    return sheet(rows, scale=1.25)


def _objection(scene: Scene, seen: Seen | None) -> str:
    wrong = [name for name, right in matches(seen, scene).items() if not right]
    if not wrong:
        return ""
    return " [no thing found]" if seen is None else f" [seen: {', '.join(getattr(seen, name) for name in wrong)}]"


def samples(captions: Sequence[str], judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """The result of every picture, for the JSON."""
    return [
        {"caption": text, "asked": {name: getattr(scene, name) for name in ASKED}, "seen": seen and asdict(seen)}
        for text, (scene, seen) in zip(captions, judged, strict=True)
    ]


# ---- the command -----------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace, report: Callable[[Row], None]) -> dict[str, Any]:
    """Reports all rows, the cheap ones first; returns the other content of the JSON."""
    asked = held_out(options.count)
    scenes, captions = [scene for scene, _ in asked], [text for _, text in asked]
    drawings = [draw(scene, SIDE) for scene in scenes]
    report(shares("drawings", judge(drawings, scenes)))
    report(shares("drawings, other captions", judge(drawings, [*scenes[1:], scenes[0]])))
    if options.drawings:
        return {}
    parts = load(options.weights or embedded_weights(), dtype=torch.float32)
    if parts.kind not in ("sdxl-base", "sdxl-turbo"):
        raise InputError(f"--weights: got a model of kind {parts.kind}, expected sdxl-base or sdxl-turbo, from text")
    report(shares("drawings through the VAE", judge(through_vae(parts.vae, drawings), scenes)))
    pictures = paint(parts, captions, steps=options.steps, scale=options.scale, seed=options.seed)
    judged = judge(pictures, scenes)
    report(shares("model", judged))
    if options.grid:
        options.grid.parent.mkdir(parents=True, exist_ok=True)
        grid(pictures, captions, judged).save(options.grid)
    return {"weights": str(parts.path), "samples": samples(captions, judged)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a checkpoint (default: the embedded base)")
    parser.add_argument("--count", type=int, default=100, help="held-out captions")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--scale", type=float, default=4.0, help="guidance by the prompt")
    parser.add_argument("--seed", type=int, default=0, help="of the first picture's noise; the next has the next seed")
    parser.add_argument("--drawings", action="store_true", help="the check on the true drawings only, without a model")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures, machine and settings to OUT")
    parser.add_argument("--grid", type=Path, metavar="OUT.png", help=f"write the first {SHOWN} pictures to OUT.png")
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error("--count must be at least 1")
    rows: list[Row] = []
    found = measure(options, rows.append)
    print_table(rows)
    if options.json:
        settings = {name: getattr(options, name) for name in ("count", "steps", "scale", "seed")}
        write_json(options.json, {"machine": machine(), "settings": settings, "rows": rows, **found})


if __name__ == "__main__":
    main()
