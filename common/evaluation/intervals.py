"""Interval of an accuracy that was found on a limited number of samples."""

from __future__ import annotations

import math

Z95 = 1.959964
"""Number of standard deviations around the mean of a normal distribution within which 95 % lie."""


def wilson(share: float, num: int) -> tuple[float, float]:
    """Return the 95 % interval of a share that was found on `num` samples (Wilson 1927, without continuity correction).

    Unlike the share plus and minus its standard error it stays within 0 and 1 and is right near both. Nothing is known of
    no samples: (0, 1). Raises ValueError for a share that is none.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"{share} is no share; it lies between 0 and 1")
    if num < 1:
        return 0.0, 1.0
    z2 = Z95**2 / num
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(share * (1 - share) * z2 + z2**2 / 4) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)
