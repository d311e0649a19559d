"""Repaints a part of a drawing with a stock diffusers pipeline: first dense, then only the mask's positions."""

from time import perf_counter

import numpy as np
import torch
from PIL import Image

import sdxl
import sige
from sdxl.scenes.draw import draw
from sdxl.scenes.numbered import HELD_OUT, scene_at


def main() -> None:
    """Writes dense.png and sparse.png, and prints how long each took and how far they are apart."""
    pipe = sdxl.load_pipeline("embedded")  # yours: StableDiffusionXLInpaintPipeline.from_pretrained(...)
    mask = np.zeros((256, 256), dtype=np.uint8)
    mask[96:192, 80:176] = 255  # white is repainted
    options = {"image": draw(scene_at(HELD_OUT)), "mask_image": Image.fromarray(mask), "height": 256, "width": 256}
    options |= {"num_inference_steps": 30, "guidance_scale": 4.0, "strength": 1.0}

    def paint(name: str) -> np.ndarray:  # uint8 [H, W, 3]
        generator, began = torch.Generator().manual_seed(0), perf_counter()
        picture = pipe("a blue house in the middle on the grass", **options, generator=generator).images[0]
        print(f"{name}: {perf_counter() - began:.2f} s")
        picture.save(f"{name}.png")
        return np.asarray(picture).astype(float)

    dense = paint("dense")
    with sige.enable(pipe) as handle, handle.edit(mask, sige.Temporal("balanced")):
        sparse = paint("sparse")
        print(handle.passes.describe())
    error = np.square(sparse - dense)[mask > 0].mean()
    print(f"inside the mask: {10 * np.log10(255**2 / error):.1f} dB from the dense picture")


if __name__ == "__main__":
    main()
