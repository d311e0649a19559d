"""The things in the example pictures: clouds, mountains, trees, a house, a castle, a boat."""

from __future__ import annotations

import numpy as np
from canvas import HEIGHT, WIDTH, Canvas, Points, box, curve, ellipse, rough

__all__ = [
    "bale",
    "boat",
    "castle",
    "cloud",
    "fence",
    "flowers",
    "grass",
    "house",
    "mountain",
    "pine",
    "snow",
    "tree",
]


def cloud(canvas: Canvas, x: float, y: float, size: float, top: str = "#ffffffee", bottom: str = "#e3eef8d0") -> None:
    for dx, dy, radius in (
        (-1.1, 0.12, 0.38),
        (-0.55, -0.08, 0.55),
        (0.1, -0.3, 0.72),
        (0.75, -0.05, 0.5),
        (1.2, 0.15, 0.32),
    ):
        canvas.fill(ellipse(x + dx * size, y + dy * size, radius * size, radius * size * 0.62), top, bottom, blur=1.2)
    canvas.fill(ellipse(x, y + 0.2 * size, 1.55 * size, 0.2 * size), bottom, bottom, blur=1.2)


def mountain(
    canvas: Canvas, peak: tuple[float, float], half: float, base: float, light: str, dark: str, haze: str
) -> None:
    """A peak lit from the left; its foot disappears in the haze."""
    x, y = peak
    middle, random = (y + base) / 2, canvas.random
    left = rough(np.array([(x - half, base), (x - half * 0.45, middle + 6), (x, y)]), random, half / 32, 4)
    right = rough(np.array([(x, y), (x + half * 0.5, middle - 4), (x + half, base)]), random, half / 32, 4)
    spine = np.linspace((x, y), (x + half * 0.04, base), 14)
    spine[1:, 0] += random.normal(0, half / 22, 13)
    canvas.fill(np.concatenate([left, spine]), light, haze)
    canvas.fill(np.concatenate([right, spine[::-1]]), dark, haze)


def snow(canvas: Canvas, peak: tuple[float, float], half: float, depth: float, light: str, dark: str) -> None:
    x, y = peak
    lower = [(x - half, y + depth), (x - half * 0.6, y + depth * 0.72), (x - half * 0.35, y + depth * 1.1)]
    canvas.fill([(x, y), *lower, (x - half * 0.1, y + depth * 0.7), (x + half * 0.12, y + depth)], light)
    canvas.fill(
        [(x, y), (x + half * 0.12, y + depth), (x + half * 0.45, y + depth * 0.7), (x + half * 0.9, y + depth)], dark
    )


def pine(canvas: Canvas, x: float, base: float, height: float, light: str, dark: str) -> None:
    canvas.fill(box(x - height * 0.025, base - height * 0.15, x + height * 0.025, base), "#3c2b22")
    for level in range(5):
        top = base - height + level * height * 0.17
        half, drop = height * (0.07 + 0.042 * level), height * 0.27
        canvas.fill([(x, top), (x + half, top + drop), (x, top + drop * 0.88), (x - half, top + drop)], light, dark)
        canvas.fill([(x, top), (x + half, top + drop), (x, top + drop * 0.88)], dark, dark)


def tree(canvas: Canvas, x: float, base: float, height: float) -> None:
    """A broad-leaved tree: dark leaves first, then lit ones towards the upper left."""
    trunk = height * 0.045
    canvas.fill(ellipse(x + height * 0.1, base, height * 0.42, height * 0.035), "#1f3d1c70", blur=3)
    canvas.fill(
        [
            (x - trunk * 1.7, base),
            (x - trunk, base - height * 0.4),
            (x + trunk, base - height * 0.4),
            (x + trunk * 1.8, base),
        ],
        "#6b4a33",
        "#4a3122",
    )
    for shade, (light, dark) in enumerate((("#2f6b35", "#234f2b"), ("#4a8f3f", "#2f6b35"), ("#7bb551", "#4a8f3f"))):
        for _ in range((70, 60, 40)[shade]):
            angle, distance = canvas.random.uniform(0, 2 * np.pi), np.sqrt(canvas.random.uniform(0, 1))
            reach = height * (0.36, 0.29, 0.2)[shade]
            leaf_x = x + distance * reach * np.cos(angle) - shade * height * 0.055
            leaf_y = base - height * 0.64 + distance * reach * 0.82 * np.sin(angle) - shade * height * 0.05
            canvas.fill(ellipse(leaf_x, leaf_y, height * 0.055, height * 0.045, 12), light, dark)


def grass(canvas: Canvas, count: int, top: float, colours: tuple[str, ...]) -> None:
    """Draws blades of grass from back to front; near ones are taller."""
    for y in np.sort(top + (HEIGHT + 8 - top) * canvas.random.uniform(0, 1, count)):
        near = (y - top) / (HEIGHT - top)
        x, lean = canvas.random.uniform(0, WIDTH), canvas.random.normal(0, 3)
        tall = 3 + 11 * near * canvas.random.uniform(0.6, 1.3)
        colour = colours[canvas.random.integers(len(colours))]
        canvas.fill([(x - 0.7 - near, y), (x + lean * near, y - tall), (x + 0.7 + near, y)], colour)


def flowers(canvas: Canvas, count: int, top: float, colours: tuple[str, ...]) -> None:
    for y in np.sort(top + (HEIGHT - top) * canvas.random.uniform(0, 1, count)):
        size = 1 + 2.2 * (y - top) / (HEIGHT - top)
        x, colour = canvas.random.uniform(0, WIDTH), colours[canvas.random.integers(len(colours))]
        canvas.fill(ellipse(x, y, size, size * 0.8, 12), colour)
        canvas.fill(ellipse(x, y, size * 0.4, size * 0.35, 8), "#f7c948")


def house(canvas: Canvas, x: float, base: float, size: float) -> None:
    """A house seen from a corner: the gable to the left, the long side to the right."""
    eaves = base - size * 0.42
    canvas.fill(ellipse(x + size * 0.55, base + size * 0.01, size * 0.75, size * 0.06), "#1f3d1c60", blur=3)
    canvas.fill(box(x + size * 0.86, base - size * 0.93, x + size * 0.96, base - size * 0.6), "#a4563f", "#7f3f30")
    canvas.fill(
        [(x, base), (x, eaves), (x + size * 0.25, base - size * 0.8), (x + size * 0.5, eaves), (x + size * 0.5, base)],
        "#fbf1dc",
        "#e6d3b1",
    )
    canvas.fill(box(x + size * 0.5, eaves, x + size * 1.2, base), "#e0c9a3", "#c9ae86")
    canvas.fill(
        [
            (x + size * 0.25, base - size * 0.84),
            (x + size * 1.0, base - size * 0.84),
            (x + size * 1.26, eaves + size * 0.04),
            (x + size * 0.52, eaves + size * 0.04),
        ],
        "#c8553d",
        "#9c3a2a",
    )
    canvas.fill(
        [
            (x + size * 0.25, base - size * 0.84),
            (x - size * 0.05, eaves + size * 0.05),
            (x - size * 0.01, eaves + size * 0.05),
            (x + size * 0.25, base - size * 0.76),
        ],
        "#8c3325",
    )
    canvas.fill(box(x + size * 0.19, base - size * 0.27, x + size * 0.32, base), "#7a4b2f", "#5f3822")
    for window in (x + size * 0.62, x + size * 0.92):
        canvas.fill(
            box(window - size * 0.015, base - size * 0.305, window + size * 0.175, base - size * 0.115), "#f6ecd6"
        )
        canvas.fill(box(window, base - size * 0.29, window + size * 0.16, base - size * 0.13), "#7fb2d6", "#4f86ad")
        canvas.fill(
            box(window + size * 0.073, base - size * 0.29, window + size * 0.087, base - size * 0.13), "#f6ecd6"
        )
    canvas.fill(ellipse(x + size * 0.25, base - size * 0.52, size * 0.05), "#7fb2d6", "#4f86ad")


def fence(canvas: Canvas, line: Points, height: float) -> None:
    for rail in (0.35, 0.75):
        upper = line - (0, height * (rail + 0.08))
        canvas.fill(np.concatenate([upper, (upper + (0, height * 0.13))[::-1]]), "#b08e66", "#8d6e4c")
    for x, y in line[::12]:
        canvas.fill(box(x - height * 0.08, y - height, x + height * 0.08, y + 1), "#c9a67a", "#84643f")


def bale(canvas: Canvas, x: float, base: float, radius: float) -> None:
    """A round bale of hay with its spiral towards the viewer."""
    y, length = base - radius, radius * 0.9
    canvas.fill(ellipse(x + length * 0.6, base, radius * 1.5, radius * 0.14), "#2d4a1d80", blur=2.5)
    body = np.concatenate(
        [ellipse(x + length, y, radius)[48:], ellipse(x + length, y, radius)[:17], ellipse(x, y, radius)[16:49]]
    )
    canvas.fill(body, "#e8c873", "#a67f36")
    canvas.fill(ellipse(x, y, radius * 0.86, radius), "#f2d98b", "#c59a48")
    for ring in (0.72, 0.48, 0.24):
        canvas.fill(
            ellipse(x, y, radius * 0.86 * ring, radius * ring), "#c99f4e" if ring != 0.48 else "#e7c978", "#b0853b"
        )
        canvas.fill(ellipse(x, y, radius * 0.86 * (ring - 0.06), radius * (ring - 0.06)), "#f2d98b", "#cfa552")


def castle(canvas: Canvas, x: float, base: float) -> None:
    """Towers and a wall, lit by a low sun from the left; 104 pixels wide."""

    def tower(left: float, width: float, height: float, roof: float) -> None:
        right, top = left + width, base - height
        canvas.fill(box(left, top, right, base), "#f3d9c0", "#b98d8a")
        canvas.fill(box(left + width * 0.58, top, right, base), "#a77a86", "#7d5a76")
        canvas.fill([(left - 3, top), (left + width / 2, top - roof), (right + 3, top)], "#7c5aa6", "#54407f")
        canvas.fill(
            [(left + width * 0.58, top), (left + width / 2, top - roof), (right + 3, top)], "#46366d", "#3a2d5c"
        )
        canvas.fill(box(left + width * 0.22, top + 8, left + width * 0.42, top + 17), "#ffdf8a", "#ffb95a")

    canvas.fill(box(x - 42, base - 34, x + 44, base), "#e6c4b0", "#a77f86")
    for left in range(-42, 44, 8):
        canvas.fill(box(x + left, base - 38, x + left + 4.6, base - 33), "#e6c4b0", "#d9b5a6")
    tower(x - 52, 18, 52, 30)
    tower(x - 24, 20, 74, 36)
    tower(x + 4, 24, 92, 44)
    tower(x + 34, 18, 58, 32)
    canvas.fill(
        np.concatenate([ellipse(x - 3, base - 14, 8)[32:], box(x - 11, base - 14, x + 5, base)[[2, 3]]]), "#5a3b4d"
    )
    canvas.fill([(x + 16, base - 136), (x + 34, base - 131), (x + 16, base - 125)], "#ff7a6b", "#e0524f")
    canvas.fill(box(x + 15.2, base - 138, x + 16.4, base - 118), "#4a3a5c")


def boat(canvas: Canvas, x: float, base: float) -> None:
    """A sailing boat with a lantern, and its reflection in the water."""
    for shape, top, bottom in (
        ([(x - 62, base + 4), (x + 66, base + 4), (x + 44, base + 24), (x - 40, base + 24)], "#120d1cb0", "#120d1c60"),
        ([(x - 2, base + 20), (x + 46, base + 24), (x + 8, base + 84)], "#f6e7cf78", "#f6e7cf10"),
        ([(x - 8, base + 20), (x - 44, base + 24), (x - 10, base + 66)], "#f6e7cf50", "#f6e7cf10"),
    ):
        canvas.fill(shape, top, bottom, blur=1)
    canvas.fill(box(x - 4.5, base - 132, x - 1.5, base - 8), "#8a623f", "#5b3c28")
    canvas.fill(
        np.concatenate([curve([(x, base - 126), (x + 34, base - 70), (x + 54, base - 22)]), [(x, base - 18)]]),
        "#fffaf0",
        "#efc98f",
    )
    canvas.fill(
        np.concatenate([curve([(x - 7, base - 112), (x - 30, base - 60), (x - 54, base - 20)]), [(x - 7, base - 24)]]),
        "#e9eef6",
        "#b6a6b8",
    )
    canvas.fill([(x - 3, base - 132), (x + 15, base - 128), (x - 3, base - 123)], "#ff6f61")
    hull = curve([(x - 68, base - 16), (x - 54, base + 3), (x - 20, base + 8), (x + 44, base + 6), (x + 76, base - 20)])
    canvas.fill(hull, "#a8552f", "#5a2a22")
    canvas.fill(
        [(x - 68, base - 16), (x + 76, base - 20), (x + 73, base - 14), (x - 65, base - 11)], "#f3e3c3", "#d8b98a"
    )
    canvas.fill(ellipse(x + 60, base - 28, 9), "#ffd98070", blur=3)
    canvas.fill(ellipse(x + 60, base - 28, 3.4), "#fff3c4", "#ffc861")
