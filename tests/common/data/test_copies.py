"""Copies are found among many prints, by neighbours of random projections, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from revit.common.data.check.copies import same_bytes, same_pictures
from revit.common.data.check.facts import DIGEST_BYTES, PRINT_BYTES

NUM_FRAMES = 4


def prints(count: int, seed: int = 0) -> np.ndarray:
    """Prints (count, PRINT_BYTES) of clips: a smooth place, and something that moves in it."""
    generator = np.random.default_rng(seed)
    side = int((PRINT_BYTES / NUM_FRAMES) ** 0.5)
    frames = generator.uniform(40, 200, (count, 1, 3, 3)).repeat(side // 3, 2).repeat(side // 3, 3)
    frames = frames.repeat(NUM_FRAMES, 1)
    for row, number in np.ndindex(count, NUM_FRAMES):
        top, left = generator.integers(0, side - 3, 2)
        frames[row, number, top : top + 3, left : left + 3] = generator.uniform(0, 255)
    return np.clip(frames, 0, 255).reshape(count, PRINT_BYTES).astype(np.uint8)


def noisy(originals: np.ndarray, sigma: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, originals.shape)
    return np.clip(originals + noise, 0, 255).astype(np.uint8)


def test_all_copies_among_twenty_thousand_and_no_other():
    originals = prints(20_000)
    which = np.arange(0, 20_000, 100)
    together = np.concatenate([originals, noisy(originals[which], 3.0)])
    pairs = set(same_pictures(together, np.ones(len(together), bool), NUM_FRAMES))
    assert pairs == {(int(old), 20_000 + place) for place, old in enumerate(which)}


def test_brightness_and_contrast_make_no_other_content():
    originals = prints(50)
    together = np.concatenate([originals, (originals * 0.8 + 20).astype(np.uint8)])
    pairs = set(same_pictures(together, np.ones(100, bool), NUM_FRAMES))
    assert pairs == {(number, 50 + number) for number in range(50)}


def test_still_clips_and_clips_of_one_place_are_no_copies():
    place = prints(1)[0].reshape(NUM_FRAMES, -1)[0]
    still = noisy(np.tile(place, (30, NUM_FRAMES)), 1.0)
    assert list(same_pictures(still, np.ones(30, bool), NUM_FRAMES)) == []
    moving, generator = still.reshape(30, NUM_FRAMES, -1).copy(), np.random.default_rng(2)
    for row, number in np.ndindex(30, NUM_FRAMES):  # a small thing that is elsewhere in each
        moving[row, number, generator.integers(0, moving.shape[2], 4)] = 255
    assert list(same_pictures(moving.reshape(30, -1), np.ones(30, bool), NUM_FRAMES)) == []
    flat = np.full((5, PRINT_BYTES), 16, np.uint8)
    assert list(same_pictures(flat, np.ones(5, bool), 1)) == []


@pytest.mark.parametrize("seed", range(3))
def test_equal_digests_are_found_as_a_dictionary_finds_them(seed):
    generator = np.random.default_rng(seed)
    digests = np.zeros((200, DIGEST_BYTES), np.uint8)
    digests[:, -1] = generator.integers(0, 60, 200)
    known = generator.random(200) < 0.8
    first: dict[bytes, int] = {}
    expected = set()
    for row in np.flatnonzero(known).tolist():
        before = first.setdefault(digests[row].tobytes(), row)
        if before != row:
            expected.add((before, row))
    assert set(same_bytes(digests, known)) == expected
