"""Pictures of which any number of four marks are on, one in each corner: samples with several labels, or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

MARKS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 230), "white": (240, 240, 240)}
NAMES = tuple(MARKS)
SIDE = 48


def marked_picture(numbers: tuple[int, ...], seed: int) -> Image.Image:
    """A grey noisy picture with the marks of these numbers, each in its corner."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(60, 120, (SIDE, SIDE, 3), dtype=np.uint8)
    half = SIDE // 2
    for number in numbers:
        row, col = divmod(number, 2)
        top, left = row * half + int(generator.integers(2, 8)), col * half + int(generator.integers(2, 8))
        pixels[top : top + 12, left : left + 12] = tuple(MARKS.values())[number]
    return Image.fromarray(pixels)


def drawn_sets(num: int, seed: int, rates: tuple[float, ...] = (0.6, 0.4, 0.3, 0.15)) -> list[tuple[int, ...]]:
    """Sets of marks, each on with its rate."""
    on = np.random.default_rng(seed).random((num, len(rates))) < rates
    return [tuple(np.flatnonzero(row).tolist()) for row in on]


def write_marked(folder: Path, split: str, num: int, seed: int) -> list[tuple[int, ...]]:
    """Write pictures and `folder`/split.csv, a CSV of path and names in one quoted field. Return the sets."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    sets, lines = drawn_sets(num, seed), []
    for place, numbers in enumerate(sets):
        path = folder / split / f"{place:04d}.png"
        marked_picture(numbers, seed * 10_000 + place).save(path)
        lines.append(f'{path},"{",".join(NAMES[number] for number in numbers)}"')
    (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return sets
