"""Painting digits: the split, and that place, size and turn are the ones asked for."""

from __future__ import annotations

import numpy as np
import pytest

from revit.common.data.made_digits import background, place, smooth, split_digits

FULL = smooth(np.ones((8, 8)))


def test_digits_are_shared_out_completely():
    parts = split_digits(seed=4, num_digits=1797)
    assert [len(part) for part in parts.values()] == [1078, 359, 360]
    assert sorted(index for part in parts.values() for index in part) == list(range(1797))


@pytest.mark.parametrize(("across", "down", "pixels"), [(0.5, 0.5, 20.0), (0.25, 0.7, 9.0), (0.8, 0.3, 14.5)])
def test_a_digit_lies_where_it_is_put(across, down, pixels):
    layer = place(FULL, 48, across, down, pixels)[..., 0]
    assert layer.sum() == pytest.approx(pixels**2, rel=0.15)
    y, x = np.mgrid[:48, :48] + 0.5
    assert (layer * x).sum() / layer.sum() == pytest.approx(48 * across, abs=0.1)
    assert (layer * y).sum() / layer.sum() == pytest.approx(48 * down, abs=0.1)


def test_a_quarter_turn_is_clockwise():
    top = np.zeros((8, 8))
    top[0, 2:6] = 1
    upright, turned = (place(smooth(top), 32, 0.5, 0.5, 16, turns)[..., 0] for turns in (0.0, 0.25))
    assert np.allclose(turned, np.rot90(upright, k=-1), atol=1e-6)


def test_background_has_the_contrast_asked_for():
    texture, colour = background(3, 48, 15.0)
    assert texture.shape == (48, 48, 3)
    assert texture.mean(-1).std() == pytest.approx(15.0, rel=0.2)
    assert np.array_equal(texture, background(3, 48, 15.0)[0])
    assert colour.min() > texture.mean() + 50
