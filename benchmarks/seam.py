"""Measures the seam of inpainting: how far the painted picture is from the true scene just inside the mask's edge.

    python -m benchmarks.seam [--weights FILE ...] [--count 50] [--steps 30] [--scale 4] [--margin 2]
                              [--match_edge 24] [--json OUT] [--grid OUT.png]

Each edit asks for another thing in a thing's place, in a held-out scene. The scene with that thing is drawn, so the
true picture is known; near the mask's edge it is mostly what continues from outside. `band` is the mean error, of
255, of the pixels inside the mask at most 8 from its edge; `mask` that of all its pixels. Between that band and the
true thing lie --margin pixels at least: a thing that is painted larger than the true one fills the band. Each model
has a second row, with its edge matched over --match_edge pixels (`sdxl.edit(match_edge=)`). Two rows stand beside the
models': the true picture through the VAE, which no model of that VAE can beat, and the mean colour around the mask.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import sdxl
from benchmarks.harness import Row, machine, print_table, write_json
from benchmarks.prompts import through_vae
from benchmarks.quality.metrics import BAND, Mask, Pixels, dilate
from benchmarks.quality.shapes import SHAPES, draw_mask
from sdxl.checkpoint.embedded import embedded_weights
from sdxl.checkpoint.load import load
from sdxl.pictures.panels import Panel, sheet
from sdxl.pictures.panels import Row as PanelRow
from sdxl.pictures.seams import put_together
from sdxl.pipelines.load import make_pipeline
from sdxl.scenes.draw import draw, thing_mask
from sdxl.scenes.numbered import HELD_OUT, scene_at
from sdxl.scenes.scene import COLOURS, THINGS, Scene, caption

FIRST = 3000  # number of the first scene; the other benchmarks' are below
SHARES = (0.04, 0.25)  # of the picture, under a mask
SIDE = 256
SHOWN = 6  # edits in the grid
MARGIN = 2  # pixels between the true thing and the band
MATCH = 24  # pixels over which a matched edge fades


@dataclass(frozen=True, eq=False)
class Edit:
    """A picture, its mask, the prompt, and the true picture that the prompt describes."""

    number: int
    image: Image.Image
    truth: Image.Image
    mask: Mask  # [side, side]
    prompt: str

    @property
    def band(self) -> Mask:  # [side, side]
        """The pixels inside the mask that are at most BAND pixels from its edge."""
        return self.mask & dilate(~self.mask, BAND)


def edits(count: int, margin: int = MARGIN) -> Iterator[Edit]:
    """The edits, always the same."""
    for number in range(FIRST, FIRST + count):
        rng = np.random.default_rng([12, number])
        scene = scene_at(HELD_OUT + number)
        wanted = _another_thing(scene, rng)
        y, x = np.nonzero(thing_mask(scene, SIDE) | thing_mask(wanted, SIDE))
        share = float(np.exp(rng.uniform(*np.log(SHARES))))
        shape = tuple(SHAPES)[number % len(SHAPES)]
        mask = draw_mask(shape, share, (float(x.mean()), float(y.mean())), SIDE, rng)
        mask = mask | dilate(thing_mask(scene, SIDE) | thing_mask(wanted, SIDE), BAND + margin)  # things end inside
        yield Edit(number, draw(scene, SIDE), draw(wanted, SIDE), mask, caption(wanted, rng))


def _another_thing(scene: Scene, rng: np.random.Generator) -> Scene:
    things = [thing for thing in THINGS if (thing == "balloon") == (scene.thing == "balloon")]
    colours = [colour for colour in COLOURS if colour != scene.colour]
    return replace(scene, thing=things[int(rng.integers(len(things)))], colour=colours[int(rng.integers(len(colours)))])


def measured(name: str, pictures: Sequence[Image.Image], asked: Sequence[Edit]) -> Row:
    """A row of the table: mean errors over all edits, and the worst edit's band."""
    bands, masks = [], []
    for picture, edit in zip(pictures, asked, strict=True):
        off = np.abs(_pixels(picture).astype(np.float64) - _pixels(edit.truth)).mean(axis=2)  # [side, side]
        bands.append(float(off[edit.band].mean()))
        masks.append(float(off[edit.mask].mean()))
    return {
        "pictures": name,
        "count": len(bands),
        "band": float(np.mean(bands)),
        "band, median": float(np.median(bands)),
        "band, worst": max(bands),
        "mask": float(np.mean(masks)),
    }


def around(edit: Edit) -> Image.Image:
    """The picture with the mask in the mean colour of the pixels around it."""
    pixels = _pixels(edit.image).copy()
    pixels[edit.mask] = pixels[dilate(edit.mask, BAND) & ~edit.mask].mean(axis=0).round().astype(np.uint8)
    return Image.fromarray(pixels)


def matched(picture: Image.Image, edit: Edit, width: int) -> Image.Image:
    """The picture with its edge matched."""
    return put_together(edit.image, picture, edit.mask.astype(np.float32), width)


def _pixels(image: Image.Image) -> Pixels:  # [H, W, 3]
    return np.asarray(image.convert("RGB"))


def painted(weights: Path, asked: Sequence[Edit], steps: int, scale: float) -> list[Image.Image]:
    """What a checkpoint paints, densely."""
    pipe = make_pipeline(load(weights, dtype=torch.float32, progress=False), "inpainting")
    pipe.set_progress_bar_config(disable=True)
    images = []
    for edit in tqdm(asked, desc=weights.name, disable=None):
        sampling = sdxl.Sampling(edit.prompt, steps=steps, scale=scale, seed=edit.number)
        images.append(sdxl.edit(pipe, edit.image, mask=edit.mask, sampling=sampling).image)
    return images


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", type=Path, nargs="+", metavar="FILE", help="checkpoints (default: the embedded)")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--scale", type=float, default=4.0, help="guidance by the prompt")
    parser.add_argument("--margin", type=int, default=MARGIN, help="pixels between the true thing and the band")
    parser.add_argument("--match_edge", type=int, default=MATCH, help="pixels; of each model's second row")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures, machine and settings to OUT")
    parser.add_argument("--grid", type=Path, metavar="OUT.png", help=f"write the first {SHOWN} edits to OUT.png")
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error("--count must be at least 1")
    asked = list(edits(options.count, options.margin))
    files = options.weights or [embedded_weights("sdxl-inpaint")]
    again = through_vae(load(files[0], dtype=torch.float32, progress=False).vae, [edit.truth for edit in asked])
    rows = [measured("the true picture through the VAE", again, asked)]
    rows.append(measured("the mean colour around the mask", [around(edit) for edit in asked], asked))
    shown = [[Panel(edit.image, edit.prompt), Panel(edit.truth, "the true scene")] for edit in asked[:SHOWN]]
    for file in files:
        name = str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)
        pictures = painted(file, asked, options.steps, options.scale)
        met = [matched(picture, edit, options.match_edge) for picture, edit in zip(pictures, asked, strict=True)]
        rows += [measured(name, pictures, asked), measured(f"{name}, edge matched", met, asked)]
        for panels, picture, other in zip(shown, pictures, met, strict=False):
            panels += [Panel(picture, file.stem), Panel(other, "its edge matched")]
    print_table(rows)
    if options.json:
        settings = {name: getattr(options, name) for name in ("count", "steps", "scale", "margin", "match_edge")}
        write_json(options.json, {"machine": machine(), "settings": settings, "rows": rows})
    if options.grid:
        options.grid.parent.mkdir(parents=True, exist_ok=True)
        sheet([PanelRow(panels) for panels in shown], scale=1.25).save(options.grid)


if __name__ == "__main__":
    main()
