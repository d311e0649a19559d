"""Size conditioning where diffusers' pipelines leave it out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["own_negative_crop"]


@contextmanager
def own_negative_crop(pipe: Any) -> Iterator[None]:
    """Inside, the negative prompt has its own `negative_crops_coords_top_left`.

    The SDXL pipelines that begin with a picture take that argument and give the negative prompt the positive crop
    (diffusers 0.42.1, `_get_add_time_ids`); so they are asked twice.
    """
    original = getattr(pipe, "_get_add_time_ids", None)
    crop = "negative_crops_coords_top_left"
    if original is None or crop not in inspect.signature(original).parameters:  # text to image, SD 1.5
        yield
        return
    signature = inspect.signature(original)

    def ask_twice(*args: Any, **kwargs: Any) -> Any:
        said = signature.bind(*args, **kwargs).arguments
        positive, _ = original(**said)
        _, negative = original(**said | {"crops_coords_top_left": said[crop]})
        return positive, negative

    pipe._get_add_time_ids = ask_twice
    try:
        yield
    finally:
        del pipe._get_add_time_ids
