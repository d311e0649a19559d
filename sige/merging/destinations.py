"""The destinations of a level: one position in each cell of a grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sige.sizes import Size

__all__ = ["Int64Array", "destinations", "generator"]

Int64Array = npt.NDArray[np.int64]


def generator(timestep: float, block: int) -> np.random.Generator:
    """The generator of one block in one step.

    It depends on these two numbers alone. So a picture is the same whenever it is made again, a recorded pass merges as
    the dense pass does, and no random number is taken from the pipeline's generator or from torch.
    """
    return np.random.default_rng([int(np.float64(timestep).view(np.uint64)), block])


def destinations(
    size: Size,
    sy: int,
    sx: int,
    random: np.random.Generator | None = None,
) -> Int64Array:  # [D]
    """One position of each cell of `sy` x `sx`: a random one, or the top left; cells at the border may be smaller.

    >>> destinations((4, 5), 2, 2)
    array([ 0,  2,  4, 10, 12, 14])
    """
    height, width = size
    tops, lefts = np.arange(0, height, sy)[:, None], np.arange(0, width, sx)[None, :]
    y, x = tops + 0 * lefts, lefts + 0 * tops
    if random is not None:
        y = y + random.integers(np.minimum(sy, height - y))
        x = x + random.integers(np.minimum(sx, width - x))
    return np.asarray(y * width + x, dtype=np.int64).ravel()
