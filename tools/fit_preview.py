"""Fits the linear map from the embedded model's latents to RGB, and writes it into `configs/preview.yaml`.

    python tools/fit_preview.py [--scenes 256]

Training scenes are encoded with the embedded VAE. Least squares finds the map from the scaled latents to the pictures,
averaged over the 8x8 pixels of each latent. It is scored on held-out scenes: R2, and the error in steps of 256.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdxl.checkpoint.embedded import EMBEDDED, embedded_weights
from sdxl.checkpoint.load import load
from sdxl.scenes.draw import draw
from sdxl.scenes.numbered import HELD_OUT, scene_at
from sige.config_files import config_folder
from sige.files import atomic_write

SIDE, CELL, TESTED = 256, 8, 32
HEAD = "\n# Fitted by tools/fit_preview.py to the scenes that the model was trained on.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenes", type=int, default=256, help="how many are fitted (default: 256)")
    scenes = parser.parse_args().scenes
    vae = load(embedded_weights(), dtype=torch.float32, progress=False).vae
    rows, colours = samples(vae, range(scenes))
    solution = torch.linalg.lstsq(rows, colours).solution  # [C + 1, 3]
    rows, colours = samples(vae, range(HELD_OUT, HELD_OUT + TESTED))
    error = rows @ solution - colours
    share = 1 - error.square().sum() / (colours - colours.mean(dim=0)).square().sum()
    levels = error.square().mean().sqrt() * 127.5
    print(f"{scenes} scenes; on {TESTED} held-out ones R2 {share:.3f}, error {levels:.1f} of 255 (root of mean square)")
    print(f"wrote {write(float(vae.config.scaling_factor), solution)}")


@torch.no_grad()
def samples(vae: Any, numbers: range) -> tuple[Tensor, Tensor]:  # [N, C + 1], [N, 3]
    """A row for each latent: its channels and a one, and the colour of the pixels that it covers, from -1 to 1."""
    rows, colours = [], []
    for number in numbers:
        pixels = torch.from_numpy(np.array(draw(scene_at(number), SIDE))).float() / 127.5 - 1  # [H, W, 3]
        image = pixels.permute(2, 0, 1)[None]  # [1, 3, H, W]
        latents = vae.encode(image).latent_dist.mean * vae.config.scaling_factor  # [1, C, h, w]
        small = torch.nn.functional.avg_pool2d(image, CELL)  # [1, 3, h, w]
        ones = torch.ones_like(latents[:, :1])
        rows.append(torch.cat([latents, ones], dim=1).flatten(2)[0].T)
        colours.append(small.flatten(2)[0].T)
    return torch.cat(rows), torch.cat(colours)


def write(scaling_factor: float, solution: Tensor) -> str:  # [C + 1, 3]
    """Puts the family's section at the end of the file, in the place of the one before."""
    path = config_folder() / "preview.yaml"
    kept = path.read_text().partition(HEAD)[0]
    *weight, bias = [[round(value, 4) for value in row] for row in solution.tolist()]
    lines = [f"{EMBEDDED}:", f"  scaling_factor: {scaling_factor}", "  weight:", *(f"    - {row}" for row in weight)]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join([kept + HEAD.rstrip("\n"), *lines, f"  bias: {bias}", ""]))
    return str(path)


if __name__ == "__main__":
    main()
