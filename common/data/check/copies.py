"""Files with the same content: the same bytes, or pictures so alike that one is the other written anew.

Of a million prints not all pairs can be compared. Random projections of a print, their signs taken as bits (Charikar,
"Similarity estimation techniques from rounding algorithms", STOC 2002, section 3), are equal for most bits of two copies. Prints
whose bits of one band are equal are neighbours after sorting; only neighbours are compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BANDS, BAND_BITS = 16, 24
"""Bands of bits, and bits of each: two prints whose correlation is 0.985 share a whole band with a chance of 0.99, at 0.995 with
one of 0.9999."""
NEIGHBOURS = 24
"""Prints behind one in the order of a band that it is compared with."""
LEAST_CONTRAST = 6.0
"""Grey levels: standard deviation below which a print says too little."""
LEAST_MOTION = 2.0
"""Grey levels: standard deviation over time below which clips of one place cannot be told apart."""
LEAST_ALIKE, LEAST_MOTION_ALIKE, LEAST_STILL_ALIKE = 0.98, 0.85, 0.998
"""Correlation of the prints of two clips, of what moves in them, and of two pictures, from which on they are copies. Of clips of
320x240 written anew in other codecs, at half the size or rate or a third of the bytes, the first two were at least 0.998 and 0.99;
of clips of 96x72 0.985 and 0.87; of other clips of the same place at most 0.93 and 0.04. Pictures
at half the size reached 0.9983 and more, neighbouring frames of a film 0.9975, or 0.9989 where little moved."""
ROWS = 1 << 12
"""Prints taken at once."""


def same_bytes(digests: NDArray[np.uint8], known: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield pairs (first, other) of rows with equal digests (F, D); known: rows (F,) that have one."""
    rows = np.flatnonzero(known)
    if not len(rows):
        return
    keys = np.ascontiguousarray(digests[rows]).view(np.dtype((np.void, digests.shape[1])))[:, 0]
    order = np.argsort(keys, kind="stable")
    first = 0
    for before, after in zip(range(len(order)), range(1, len(order))):
        if keys[order[before]] != keys[order[after]]:
            first = after
        else:
            yield int(rows[order[first]]), int(rows[order[after]])


def same_pictures(prints: NDArray[np.uint8], known: NDArray[np.bool_], num_frames: int) -> Iterator[tuple[int, int]]:
    """Yield pairs (one, other) of rows of prints (F, P) that are copies of each other; known: rows (F,) that have a print.

    num_frames: pictures that a print is of; one alone has no motion that could be compared.
    """
    rows = np.concatenate(
        [part[_says_enough(prints[part], num_frames)] for part in _parts(np.flatnonzero(known))]
        or [np.empty(0, np.int64)]
    )
    if len(rows) < 2:
        return
    generator = np.random.default_rng(0)
    seen: set[tuple[int, int]] = set()
    for _ in range(BANDS):
        directions = generator.choice([-1.0, 1.0], (prints.shape[1], BAND_BITS + 1)).astype(np.float32)
        keys, lasts = np.empty(len(rows), np.uint32), np.empty(len(rows), np.float32)
        for begin in range(0, len(rows), ROWS):
            shadows = _unit(prints[rows[begin : begin + ROWS]]) @ directions
            keys[begin : begin + ROWS] = (shadows[:, :BAND_BITS] > 0) @ (1 << np.arange(BAND_BITS, dtype=np.uint32))
            lasts[begin : begin + ROWS] = shadows[:, BAND_BITS]
        order = np.lexsort((lasts, keys))
        for shift in range(1, NEIGHBOURS + 1):
            places = np.flatnonzero(keys[order[:-shift]] == keys[order[shift:]])
            if not len(places):
                break
            for part in _parts(places):
                ones, others = rows[order[part]], rows[order[part + shift]]
                alike = _alike(prints[ones], prints[others], num_frames)
                for one, other in zip(ones[alike].tolist(), others[alike].tolist()):
                    pair = min(one, other), max(one, other)
                    if pair not in seen:
                        seen.add(pair)
                        yield pair


def _parts(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[begin : begin + ROWS] for begin in range(0, len(rows), ROWS)]


def _unit(values: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows without their mean, of length 1."""
    centred = values.astype(np.float32) - values.mean(1, keepdims=True, dtype=np.float32)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)


def _moving(prints: NDArray[np.uint8], num_frames: int) -> NDArray[np.float32]:
    """Return prints (N, P) without what stays the same over their pictures."""
    frames = prints.reshape(len(prints), num_frames, -1).astype(np.float32)
    return (frames - frames.mean(1, keepdims=True)).reshape(len(prints), -1)


def _says_enough(prints: NDArray[np.uint8], num_frames: int) -> NDArray[np.bool_]:
    enough = prints.std(1, dtype=np.float32) >= LEAST_CONTRAST
    return enough if num_frames == 1 else enough & (_moving(prints, num_frames).std(1) >= LEAST_MOTION)


def _alike(ones: NDArray[np.uint8], others: NDArray[np.uint8], num_frames: int) -> NDArray[np.bool_]:
    alike = (_unit(ones) * _unit(others)).sum(1)
    if num_frames == 1:
        return alike >= LEAST_STILL_ALIKE
    moving = _unit(_moving(ones, num_frames)), _unit(_moving(others, num_frames))
    return (alike >= LEAST_ALIKE) & ((moving[0] * moving[1]).sum(1) >= LEAST_MOTION_ALIKE)
