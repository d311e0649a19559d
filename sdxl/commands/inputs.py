"""The pictures and the mask that the settings name, at the size that they ask for."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from sdxl.commands.settings import Settings
from sdxl.pictures.images import check_pixels, check_same_size, load_image, resize, size_of
from sdxl.pictures.masks import Mask, check_mask, load_mask
from sdxl.pictures.shaping import resize_mask
from sige.sizes import Size

__all__ = ["Inputs", "load_inputs"]


@dataclass(frozen=True)
class Inputs:
    """The pictures and the mask, read before any weights; all of one size."""

    image: Image.Image | None = None  # before the edit
    edited: Image.Image | None = None  # with the rough edit in it
    mask: Mask | None = None  # [H, W], 0 to 1
    control: Image.Image | None = None  # what a ControlNet follows


def load_inputs(settings: Settings, image: Image.Image | None = None) -> Inputs:
    """Reads the files, checks that they fit each other, and brings them to --H and --W, by default their own size.

    With --only_masked these are the size of the part that is painted, and the pictures keep theirs.
    A picture that is given stands in the place of the file that --init_img names.
    """
    if image is None and settings.init_img is not None:
        image = load_image(settings.init_img)
    edited = None if settings.edited_img is None else load_image(settings.edited_img)
    mask = None if settings.mask_path is None else load_mask(settings.mask_path)
    control = None if settings.control_image is None else load_image(settings.control_image)
    if image is not None and control is not None:
        check_same_size(image, control, (str(settings.init_img), str(settings.control_image)))
    if image is not None and edited is not None:
        check_same_size(image, edited, (str(settings.init_img), str(settings.edited_img)))
    picture = edited if image is None else image
    own = size_of(picture) if picture is not None else mask.shape if mask is not None else (0, 0)
    size = own if settings.only_masked is not None else (settings.height or own[0], settings.width or own[1])
    if all(size):  # a picture from text alone may leave one side to the model
        check_pixels("the size asked for", size)
    if mask is not None:
        if mask.shape != size:
            check_mask(mask, (own[0], own[1]), str(settings.mask_path))
        mask = resize_mask(mask, size)
    return Inputs(_resized(image, size), _resized(edited, size), mask, _resized(control, size))


def _resized(image: Image.Image | None, size: Size) -> Image.Image | None:
    return image if image is None or size_of(image) == size else resize(image, *size)
