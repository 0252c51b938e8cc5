"""Pictures whose four quarters have colours of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

QUARTERS = np.array([[[200, 10, 10], [10, 200, 10]], [[10, 10, 200], [200, 200, 10]]], dtype=np.uint8)
"""(2, 2, 3): top left red, top right green, bottom left blue, bottom right yellow."""


@pytest.fixture
def quarters() -> Image.Image:
    """64 wide, 48 high."""
    rows, columns = np.arange(48) // 24, np.arange(64) // 32
    return Image.fromarray(QUARTERS[rows[:, None], columns[None]])


@pytest.fixture
def tree(tmp_path) -> Path:
    """Three classes of four pictures, ImageNet's way: train/n01/n01_0.PNG, all sizes and colours different."""
    rng = np.random.default_rng(0)
    for label in range(3):
        folder = tmp_path / "train" / f"n{label:02d}"
        folder.mkdir(parents=True)
        for number in range(4):
            size = (40 + 3 * number, 50 + label, 3)
            Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / f"n{label:02d}_{number}.PNG")
    return tmp_path / "train"
