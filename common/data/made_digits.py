"""Handwritten digits over textured backgrounds, of which the demo's pictures and clips are painted.

The digits are the 1,797 pictures that scikit-learn ships. Letters: Y and X pixels down and across.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from revit.common.data.made_data import SPLITS


@lru_cache(maxsize=1)
def read_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return opacities (1797, 8, 8) in [0, 1] and the digits (1797,)."""
    from sklearn.datasets import load_digits  # here: slow to import, and needed only where samples are made

    digits = load_digits()
    return digits.images / 16.0, digits.target


def split_digits(seed: int, num_digits: int) -> dict[str, NDArray[np.int64]]:
    """Divide the digits among the splits, 60 / 20 / 20 %."""
    order = np.random.default_rng([seed, 1]).permutation(num_digits)
    return dict(zip(SPLITS, np.split(order, [num_digits * 3 // 5, num_digits * 4 // 5])))


def background(seed: int, side: int, contrast: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a texture (Y, X, 3) of `side` pixels in grey levels, whose brightness has the standard deviation `contrast`,
    and a lighter colour (3,) for what lies on it."""
    rng = np.random.default_rng(seed)
    fields = rng.standard_normal((2, side, side))
    coarse = ndimage.gaussian_filter(fields[0], rng.uniform(2.0, 6.0))
    fine = ndimage.gaussian_filter(fields[1], rng.uniform(0.6, 1.2, size=2))
    pattern = coarse / coarse.std() + 0.5 * fine / fine.std()
    tint = rng.uniform(0.7, 1.3, size=3)
    level = rng.uniform(60.0, 110.0)
    texture = level * tint + contrast * pattern[..., None] / np.sqrt(1.25)
    return texture.astype(np.float32), rng.uniform(200.0, 255.0, size=3).astype(np.float32)


def smooth(digit: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the opacity (8, 8) of a digit, in [0, 1], at twice the resolution and with an empty border, for `place`: its
    bilinear reading then shows neither the digit's squares nor a hard edge."""
    return np.pad(np.clip(ndimage.zoom(digit, 2, order=3), 0, 1), 1)


def place(
    digit: NDArray[np.floating], side: int, across: float, down: float, pixels: float, turns: float = 0.0
) -> NDArray[np.float64]:
    """Return a smoothed digit as a layer of opacity (Y, X, 1) for a picture of `side` pixels.

    Its centre is at the fractions `across` and `down` of the side, its own side is `pixels` long, and it is turned
    clockwise. Parts outside the picture are left out.
    """
    middle = (digit.shape[0] - 1) / 2
    centre_y, centre_x = down * side, across * side
    reach = int(np.ceil(0.5 * np.sqrt(2.0) * pixels)) + 1
    window = np.arange(-reach, reach + 1)
    rows, columns = int(centre_y) + window, int(centre_x) + window
    rows, columns = (line[(line >= 0) & (line < side)] for line in (rows, columns))
    y, x = (rows + 0.5 - centre_y)[:, None], (columns + 0.5 - centre_x)[None, :]
    angle = 2.0 * np.pi * turns
    scale = (digit.shape[0] - 2) / pixels  # the empty border is no part of the digit
    source_y = middle + scale * (np.cos(angle) * y - np.sin(angle) * x)
    source_x = middle + scale * (np.sin(angle) * y + np.cos(angle) * x)
    opacity = ndimage.map_coordinates(digit, [source_y, source_x], order=1)  # 0 outside the digit
    layer = np.zeros((side, side, 1))
    layer[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, 0] = opacity
    return layer
