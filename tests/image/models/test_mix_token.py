"""MixToken's box, its exchange there and back, and what it is drawn from."""

from __future__ import annotations

import math

import pytest
import torch

from revit.common.models.grid import TokenGrid
from revit.image.models.transformers import MixDraw, mix_map, unmix

GRIDS = [TokenGrid(14, 14), TokenGrid(10, 10), TokenGrid(7, 7), TokenGrid(5, 9)]
SEEDS = range(20)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_what_was_exchanged_comes_back(grid, batch):
    for _ in SEEDS:
        box = MixDraw.draw().box(grid)
        tokens = torch.randn(batch, 3, grid.rows, grid.cols)
        mixed = mix_map(tokens, box).flatten(2).transpose(1, 2)
        assert torch.equal(unmix(mixed, box), tokens.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_share_is_what_stayed_in_place(grid):
    """Every element of the map says whose it is."""
    for _ in SEEDS:
        box = MixDraw.draw().box(grid)
        owner = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, grid.rows, grid.cols)
        mixed = mix_map(owner, box)
        for sample in range(4):
            assert float((mixed[sample] == sample).float().mean()) == pytest.approx(box.keep_share)
            assert float((mixed[sample] == 3 - sample).float().mean()) == pytest.approx(1 - box.keep_share)
        inside = mixed[0, 0] == 3
        assert inside[box.top : box.bottom, box.left : box.right].all()
        assert int(inside.sum()) == (box.bottom - box.top) * (box.right - box.left)


def test_the_published_rule_in_numbers():
    # sqrt(1 - 0.75) = 0.5: 7 tokens of 14, 3 on either side of token 7; 5 of 10: 2; 3 of 7: 1.
    mix = MixDraw(0.75, 0.5, 0.99)
    corners = {grid.name: mix.box(grid) for grid in GRIDS[:3]}
    assert [(box.top, box.bottom) for box in corners.values()] == [(4, 10), (3, 7), (2, 4)]
    assert [(box.left, box.right) for box in corners.values()] == [(10, 14), (7, 10), (5, 7)]  # cut at the border
    assert corners["14x14"].keep_share == 1 - 6 * 4 / 196


def test_nothing_and_everything():
    grid = TokenGrid(14, 14)
    assert MixDraw(1.0, 0.3, 0.3).box(grid).keep_share == 1
    assert MixDraw(0.0, 0.5, 0.5).box(grid).keep_share == 0


def test_one_draw_is_the_same_place_of_the_picture_at_every_grid():
    for _ in SEEDS:
        mix = MixDraw.draw()
        for grid in GRIDS[:3]:
            box = mix.box(grid)
            half = math.sqrt(1 - mix.lam) / 2
            for near, far, centre in ((box.top, box.bottom, mix.row), (box.left, box.right, mix.col)):
                assert near / grid.rows == pytest.approx(max(centre - half, 0), abs=2 / grid.rows)
                assert far / grid.rows == pytest.approx(min(centre + half, 1), abs=2 / grid.rows)


def test_the_distribution_of_one_grid_is_the_published_one():
    """lambda uniform, the centre uniform over the tokens, the two sides and the two axes independent of each other."""
    draws = [MixDraw.draw() for _ in range(4000)]
    lam = torch.tensor([draw.lam for draw in draws])
    rows = torch.tensor([int(14 * draw.row) for draw in draws])
    cols = torch.tensor([int(14 * draw.col) for draw in draws])
    assert float(lam.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(lam.var()) == pytest.approx(1 / 12, abs=0.005)
    for centre in (rows, cols):
        counts = centre.bincount(minlength=14)
        assert len(counts) == 14
        assert float(((counts - 4000 / 14) ** 2 / (4000 / 14)).sum()) < 34.5  # chi squared, 13 degrees, 0.1 %
    together = torch.stack([lam, rows.float(), cols.float()]).corrcoef()
    assert (together - torch.eye(3)).abs().max() < 0.06


def test_the_draw_comes_from_torchs_generator():
    torch.manual_seed(3)
    first = MixDraw.draw()
    torch.manual_seed(3)
    assert MixDraw.draw() == first
    assert MixDraw.draw() != first
