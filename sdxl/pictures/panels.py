"""One picture of several pictures side by side, with labels under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

__all__ = ["Panel", "Row", "sheet"]

_MARGIN, _TYPE, _LEADING = 16, 16, 22  # pixels: around everything, size of the type, from line to line
_GAP = 6  # pixels between a picture and its label
_PAPER, _INK = (255, 255, 255), (40, 46, 56)
_LINE = 5  # pixels: how thick the edge of a mask is drawn, half black and half white
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Panel:
    """A picture, the label under it, and a mask whose edge is drawn into the picture."""

    image: Image.Image
    label: str = ""
    mask: npt.NDArray[np.bool_] | None = None  # [H, W]


@dataclass(frozen=True)
class Row:
    """Panels side by side, and the title above them."""

    panels: Sequence[Panel]
    title: str = ""


def sheet(rows: Sequence[Row], scale: float = 1.5) -> Image.Image:
    """One picture with the rows below each other; every panel is `scale` times as large as its picture.

    >>> sheet([Row([Panel(Image.new("RGB", (64, 64)), "black")])], scale=2).size
    (160, 188)
    """
    strips = [_strip(row, scale) for row in rows]
    size = max(strip.width for strip in strips) + 2 * _MARGIN, sum(strip.height + _MARGIN for strip in strips) + _MARGIN
    page, top = Image.new("RGB", size, _PAPER), _MARGIN
    for strip in strips:
        page.paste(strip, (_MARGIN, top))
        top += strip.height + _MARGIN
    return page


def _strip(row: Row, scale: float) -> Image.Image:
    """One row as a picture: the title, the panels, their labels."""
    font = ImageFont.load_default(size=_TYPE)
    images = [_scaled(panel, scale) for panel in row.panels]
    labels = [_lines(panel.label, image.width, font) for panel, image in zip(row.panels, images, strict=True)]
    width = sum(image.width for image in images) + _MARGIN * (len(images) - 1)
    title = _lines(row.title, width, font)
    top = len(title) * _LEADING
    below = top + max(image.height for image in images)
    strip = Image.new("RGB", (width, below + _GAP + max(map(len, labels)) * _LEADING), _PAPER)
    _write(strip, title, (0, 0), font)
    left = 0
    for image, label in zip(images, labels, strict=True):
        strip.paste(image, (left, top))
        _write(strip, label, (left, below + _GAP), font)
        left += image.width + _MARGIN
    return strip


def _scaled(panel: Panel, scale: float) -> Image.Image:
    size = round(panel.image.width * scale), round(panel.image.height * scale)
    image = panel.image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return image if panel.mask is None else _outlined(image, panel.mask)


def _outlined(image: Image.Image, mask: npt.NDArray[np.bool_]) -> Image.Image:  # [H, W]
    """The picture with a line around the mask, black outside and white inside, which shows on every picture."""
    inside = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.NEAREST)
    grown, shrunk = (
        np.asarray(inside.filter(kind(_LINE))) > 0 for kind in (ImageFilter.MaxFilter, ImageFilter.MinFilter)
    )
    pixels, within = np.asarray(image).copy(), np.asarray(inside) > 0
    pixels[grown & ~within] = 0
    pixels[within & ~shrunk] = 255
    return Image.fromarray(pixels)


def _lines(text: str, width: int, font: Font) -> list[str]:
    """The words in lines that fit the width; a word that is wider than the width has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _write(image: Image.Image, lines: Sequence[str], place: tuple[int, int], font: Font) -> None:
    pen, (left, top) = ImageDraw.Draw(image), place
    for number, line in enumerate(lines):
        pen.text((left, top + number * _LEADING), line, fill=_INK, font=font)
