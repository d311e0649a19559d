"""PSNR and SSIM over the pixels that a mask names, and the band along a mask's edge."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

__all__ = ["BAND", "Mask", "Pixels", "band", "dilate", "psnr", "ssim_map"]

Pixels = npt.NDArray[np.uint8]  # [H, W, C]
Mask = npt.NDArray[np.bool_]  # [H, W]

PEAK = 255.0
BAND = 8  # pixels to each side of a mask's edge
WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian, as in the paper: Wang et al., 2004
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def psnr(picture: Pixels, reference: Pixels, where: Mask) -> float:
    """Peak signal-to-noise ratio in dB over the pixels of the mask, all channels alike; infinite where all are equal.

    >>> grey = np.full((4, 4, 3), 100, dtype=np.uint8)
    >>> round(psnr(grey + np.uint8(51), grey, np.ones((4, 4), dtype=bool)), 3)  # a fifth of the peak
    13.979
    """
    error = float(np.mean((picture[where].astype(np.float64) - reference[where]) ** 2))
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


def ssim_map(picture: Pixels, reference: Pixels) -> npt.NDArray[np.float64]:  # [H, W]
    """Structural similarity at each pixel, of each channel by itself, then averaged; borders are mirrored.

    SSIM inside a mask is the mean over its pixels; the windows of those at its edge reach out of it.
    """
    x, y = picture.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
    return np.asarray((luminance * structure).mean(axis=2))


def band(mask: Mask, reach: int = BAND) -> Mask:
    """The pixels within `reach` of the mask's edge, inside and outside; diagonal steps count as one.

    The picture's own border is no edge.

    >>> band(np.array([[True, True, True, False, False, False]]), 2)
    array([[False,  True,  True,  True,  True, False]])
    """
    return dilate(mask, reach) & dilate(~mask, reach)


def dilate(mask: Mask, reach: int) -> Mask:
    """The mask, and every pixel within `reach` of it along rows, columns and diagonals."""
    for axis in range(2):
        padded = np.pad(mask, [(reach, reach) if axis == other else (0, 0) for other in range(2)])
        mask = np.asarray(sliding_window_view(padded, 2 * reach + 1, axis=axis).any(axis=-1))
    return mask


def _blur(planes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:  # [H, W, C] twice
    half = WINDOW // 2
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / SIGMA) ** 2)  # [11]
    weights /= weights.sum()
    for axis in range(2):
        padded = np.pad(planes, [(half, half) if axis == other else (0, 0) for other in range(3)], mode="symmetric")
        planes = sliding_window_view(padded, WINDOW, axis=axis) @ weights
    return planes
