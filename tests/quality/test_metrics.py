"""PSNR, SSIM and the band against what can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.quality.metrics import band, dilate, psnr, ssim_map

SIDE = 64
C1, C2 = 6.5025, 58.5225  # (0.01 * 255)^2, (0.03 * 255)^2
EVERYWHERE = np.ones((SIDE, SIDE), dtype=bool)


def flat(value: int) -> np.ndarray:  # uint8 [SIDE, SIDE, 3]
    return np.full((SIDE, SIDE, 3), value, dtype=np.uint8)


def noise(seed: int) -> np.ndarray:  # uint8 [SIDE, SIDE, 3]
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize("difference", [1, 5, 255])
def test_psnr_of_a_constant_difference_is_its_closed_form(difference: int) -> None:
    expected = 20 * math.log10(255 / difference)
    assert psnr(flat(0), flat(difference), EVERYWHERE) == pytest.approx(expected)
    assert psnr(flat(difference), flat(0), EVERYWHERE) == pytest.approx(expected)  # unsigned pixels do not wrap


def test_psnr_sees_the_mask_alone() -> None:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[:8] = True
    other = flat(90)
    other[8:] = 0
    assert psnr(other, flat(90), mask) == math.inf
    other[0, 0, 0] = 100  # one value of 8 * 64 * 3
    assert psnr(other, flat(90), mask) == pytest.approx(10 * math.log10(255**2 * 8 * 64 * 3 / 100))


def test_ssim_of_equal_pictures_is_one_and_of_constant_ones_the_luminance_term() -> None:
    assert ssim_map(noise(0), noise(0)) == pytest.approx(np.ones((SIDE, SIDE)))
    expected = (2 * 100 * 140 + C1) / (100**2 + 140**2 + C1)
    assert ssim_map(flat(100), flat(140)) == pytest.approx(np.full((SIDE, SIDE), expected))


def test_ssim_of_unlike_textures_is_low_and_of_an_inverted_one_negative() -> None:
    assert abs(ssim_map(noise(0), noise(1)).mean()) < 0.05
    assert ssim_map(noise(0), 255 - noise(0)).mean() < -0.8


def test_ssim_at_a_point_is_its_definition() -> None:
    x, y, at = noise(0), noise(1), (20, 30)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for channel in range(3):
        a, b = (p[15:26, 25:36, channel].astype(float) for p in (x, y))
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        spread_a, spread_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
        both = (window * (a - mean_a) * (b - mean_b)).sum()
        top = (2 * mean_a * mean_b + C1) * (2 * both + C2)
        values.append(top / ((mean_a**2 + mean_b**2 + C1) * (spread_a + spread_b + C2)))
    assert ssim_map(x, y)[at] == pytest.approx(np.mean(values))


def test_the_band_has_eight_pixels_to_each_side_and_none_along_the_border() -> None:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[:, :24] = True  # touches three sides of the picture
    expected = np.zeros((SIDE, SIDE), dtype=bool)
    expected[:, 16:32] = True
    assert np.array_equal(band(mask), expected)
    assert not band(EVERYWHERE).any()
    assert dilate(np.eye(5, dtype=bool), 1).sum() == 19  # all but the two far corners and their neighbours
