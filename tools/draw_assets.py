"""`python tools/draw_assets.py [FOLDER]` draws the example pictures and masks, by default into assets/."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from canvas import HEIGHT, WIDTH, Canvas, box, curve, ellipse, land, rough
from PIL import Image
from scenery import bale, boat, castle, cloud, fence, flowers, grass, house, mountain, pine, snow, tree

RECTANGLE = (slice(280, 470), slice(590, 910))  # rows, columns: 11.6 % of the picture


def meadow() -> Image.Image:
    """A meadow with room for a horse."""
    canvas = Canvas(seed=1)
    canvas.fill(box(0, 0, WIDTH, 330), "#3f8fd9", "#e8f4fb")
    for radius, blur in ((90, 24), (56, 12)):
        canvas.fill(ellipse(262, 84, radius), "#ffffff50", blur=blur)
    canvas.fill(ellipse(262, 84, 32), "#fffef2", "#fff3c0", blur=0.7)
    for x, y, size in ((112.0, 128.0, 40), (478, 74, 40), (672, 128, 54), (905, 76, 46)):
        cloud(canvas, x, y, size)
    far = [(-20, 250), (140, 205), (330, 240), (520, 190), (700, 235), (880, 200), (1050, 245)]
    canvas.fill(land(rough(np.array(far), canvas.random, 7), 330), "#8fb3cf", "#cfe2ea")
    hill = curve([(-40, 262), (160, 236), (420, 268), (680, 236), (900, 262), (1070, 240)])
    canvas.fill(land(hill, 340), "#8dbb86", "#a8cf8e")
    for x in np.sort(canvas.random.uniform(380, 1030, 90)):
        y = 262 + canvas.random.uniform(-4, 4)
        bush = ellipse(x, y, canvas.random.uniform(5, 10), canvas.random.uniform(6, 11), 16)
        canvas.fill(bush, "#5f9a5c", "#3f7a48")
    canvas.fill(land(curve([(-40, 290), (200, 262), (480, 276), (760, 262), (1070, 282)])), "#93c85f", "#5da345")
    canvas.fill(land(curve([(-40, 322), (260, 300), (560, 318), (860, 296), (1070, 312)])), "#84c055", "#4f9a3d")
    canvas.fill(land(curve([(-40, 420), (240, 446), (520, 404), (800, 378), (1070, 396)])), "#7dbb4d60", "#3f8a3400")
    grass(canvas, 1100, 335, ("#3f8a34", "#5da345", "#8fcf5b", "#2f7431"))
    flowers(canvas, 130, 385, ("#ffffff", "#f4f0ff", "#ef6f6c", "#d77ad6"))
    near = curve([(210, 322), (262, 345), (250, 380), (330, 425), (470, 470), (560, 530)])
    far_side = curve([(196, 322), (236, 348), (205, 385), (250, 435), (330, 480), (380, 530)])
    canvas.fill(np.concatenate([near, far_side[::-1]]), "#e5cfa0", "#cdae78")
    house(canvas, 110, 322, 118)
    tree(canvas, 372, 338, 190)
    tree(canvas, 44, 345, 150)
    fence(canvas, curve([(425, 332), (560, 322), (720, 318), (880, 312), (1040, 318)]), 24)
    bale(canvas, 650, 372, 24)
    bale(canvas, 800, 402, 36)
    return canvas.finished()


def valley(edited: bool) -> Image.Image:
    """A river valley at sunset; if edited, with a castle on the hill."""
    canvas = Canvas(seed=2)
    canvas.fill(box(0, 0, WIDTH, 190), "#35276b", "#d0708f")
    canvas.fill(box(0, 190, WIDTH, 330), "#d0708f", "#ffe2a6")
    for _ in range(90):
        canvas.fill(
            ellipse(canvas.random.uniform(0, WIDTH), canvas.random.uniform(0, 130), 0.8, corners=8), "#ffffff90"
        )
    for radius, blur in ((120, 30), (80, 14)):
        canvas.fill(ellipse(420, 236, radius), "#ffe9a860", blur=blur)
    canvas.fill(ellipse(420, 236, 46), "#fffbe0", "#ffd27a", blur=0.7)
    for x, y, size in ((160, 96, 44), (640, 70, 36), (880, 120, 50)):
        cloud(canvas, x, y, size, "#ffc9b8b0", "#b9659470")
    for x, y, half in ((70, 150, 190), (300, 190, 150), (560, 176, 170), (790, 128, 220), (1010, 165, 180)):
        mountain(canvas, (x, y), half, 330, "#c77f9b", "#7d5590", "#f3b59a")
        snow(canvas, (x, y), half * 0.16, half * 0.17, "#fff0ea", "#c9a4c4")
    canvas.fill(ellipse(512, 318, 620, 22), "#ffe2c890", blur=10)
    canvas.fill(
        land(curve([(-40, 300), (140, 272), (330, 322), (520, 330), (700, 288), (860, 262), (1070, 300)])),
        "#8a5a86",
        "#54407f",
    )
    if edited:
        castle(canvas, 815, 274)
    canvas.fill(land(curve([(500, 385), (690, 302), (830, 270), (930, 280), (1070, 318)])), "#7a5285", "#463672")
    canvas.fill(
        land(curve([(-40, 330), (150, 318), (300, 352), (430, 372), (560, 356), (1070, 372)])), "#5d4a80", "#33295c"
    )
    right = curve([(440, 330), (486, 342), (452, 362), (560, 392), (520, 430), (700, 530)])
    left = curve([(424, 330), (450, 343), (404, 362), (470, 396), (370, 440), (380, 530)])
    canvas.fill(np.concatenate([right, left[::-1]]), "#ffe3a8", "#a8669a")
    canvas.fill(land(curve([(-40, 392), (120, 380), (280, 424), (350, 470), (420, 530)])), "#3d3566", "#1f1b3d")
    canvas.fill(land(curve([(600, 530), (700, 460), (850, 410), (1070, 380)])), "#3d3566", "#1f1b3d")
    for x, base, height in ((28, 470, 210), (96, 440, 150), (160, 478, 180), (232, 470, 110), (292, 492, 80)):
        pine(canvas, x, base, height, "#3b4a6b", "#1b2140")
    for x, base, height in ((730, 486, 84), (800, 466, 120), (880, 480, 170), (945, 450, 150), (1004, 486, 220)):
        pine(canvas, x, base, height, "#3b4a6b", "#1b2140")
    for x, y in ((540, 120), (566, 108), (590, 126), (612, 114)):
        for side in (-1, 1):
            canvas.fill([(x, y), (x + side * 5, y - 3), (x + side * 11, y), (x + side * 5, y - 1.6)], "#3a2a5c")
    return canvas.finished()


def lake(edited: bool) -> Image.Image:
    """A mountain lake under northern lights; if edited, with a sailing boat."""
    canvas, shore = Canvas(seed=3), 272
    canvas.fill(box(0, 0, WIDTH, shore + 20), "#0a1136", "#4f86a6")
    for _ in range(170):
        x, y, radius = canvas.random.uniform(0, (WIDTH, 200, 1))
        canvas.fill(ellipse(x, y, 0.4 + 0.7 * radius, corners=8), "#ffffffd0")
    for points, colour in (
        ([(-60, 150), (180, 90), (380, 150), (560, 80), (760, 120), (1090, 40)], "#52ffc0"),
        ([(-60, 90), (220, 160), (470, 60), (700, 150), (1090, 110)], "#6fd8ff"),
    ):
        for start, alpha in ((0, "58"), (24, "40"), (52, "28")):
            line = curve(points)
            band = np.concatenate([line - (0, 120 - start), line[::-1] + (0, 6)])
            canvas.fill(band, colour + "00", colour + alpha, blur=9)
    canvas.fill(ellipse(842, 76, 60), "#fff8dc50", blur=18)
    canvas.fill(ellipse(842, 76, 28), "#fffdf0", "#f0e6c0", blur=0.6)
    for x, y, radius in ((834, 70, 6), (850, 84, 4.5), (852, 64, 3)):
        canvas.fill(ellipse(x, y, radius), "#e3d8b0")
    for x, y, half in ((120, 130, 210), (400, 165, 180), (930, 120, 230), (670, 150, 200)):
        mountain(canvas, (x, y), half, shore + 4, "#6d8fb5", "#31507f", "#7fa9c4")
        snow(canvas, (x, y), half * 0.2, half * 0.22, "#f4fbff", "#9dbad8")
    canvas.fill(
        land(curve([(-40, 262), (200, 248), (430, 266), (640, 252), (840, 264), (1070, 246)]), shore + 2),
        "#1d3f52",
        "#17324a",
    )
    for x in np.arange(-6, WIDTH + 10, 11.0):
        height = 20 + 20 * canvas.random.uniform() + 14 * abs(x - 500) / 500
        pine(canvas, x + canvas.random.uniform(-4, 4), shore + 1, height, "#245260", "#0f2a3c")
    canvas.mirror(shore)
    for y in np.sort(shore + 6 + (HEIGHT - shore) * canvas.random.uniform(0, 1, 150)):
        near = (y - shore) / (HEIGHT - shore)
        x, half = canvas.random.uniform(0, WIDTH), 10 + 50 * near * canvas.random.uniform(0.3, 1)
        canvas.fill(ellipse(x, y, half, 0.5 + 0.8 * near, 16), "#d8f6ff38")
    if edited:
        boat(canvas, 452, 400)
    canvas.fill(land(curve([(-40, 440), (90, 450), (190, 486), (260, 530)])), "#16303a", "#0a1820")
    canvas.fill(land(curve([(760, 530), (850, 484), (960, 470), (1070, 440)])), "#16303a", "#0a1820")
    for x, base, height in ((20, 478, 230), (84, 490, 170), (146, 500, 110)):
        pine(canvas, x, base, height, "#1f4a52", "#0a1c28")
    for x, base, height in ((880, 500, 120), (944, 492, 190), (1006, 480, 250)):
        pine(canvas, x, base, height, "#1f4a52", "#0a1c28")
    return canvas.finished()


SCENES: dict[str, Callable[[], Image.Image]] = {
    "inpainting/original/0.png": meadow,
    "img2img/original/0.png": partial(valley, edited=False),
    "img2img/edited/0.png": partial(valley, edited=True),
    "img2img/original/1.png": partial(lake, edited=False),
    "img2img/edited/1.png": partial(lake, edited=True),
}


def main(folder: Path) -> None:
    for name, scene in SCENES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        scene().save(path)
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[RECTANGLE] = True
    (folder / "inpainting/masks").mkdir(parents=True, exist_ok=True)
    np.save(folder / "inpainting/masks/0.npy", mask)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "assets")
