"""Which size an update runs at: by its number and the seed alone, as often as the weights say, by stages."""

from __future__ import annotations

import numpy as np
import pytest

from revit.common.methods.flexivit import Stage, grid_at
from revit.common.models.grid import TokenGrid

LONG, SHORT, THIRD = TokenGrid(8, 8), TokenGrid(4, 4), TokenGrid(2, 2)


UNIFORM = [Stage(1.0, (LONG, SHORT, THIRD), (1, 1, 1))]


def test_a_draw_depends_on_seed_and_update_alone():
    one, two = ([grid_at(UNIFORM, 7, update, 0.5) for update in order] for order in (range(50), range(50)))
    late = [grid_at(UNIFORM, 7, update, 0.1) for update in range(25, 50)]  # as after a resume
    assert one == two
    assert one[25:] == late
    assert one != [grid_at(UNIFORM, 8, update, 0.5) for update in range(50)]


def test_these_are_the_draws_on_every_machine():
    names = [grid_at(UNIFORM, 0, update, 0.0).rows for update in range(12)]
    assert names == [8, 2, 8, 4, 4, 2, 4, 2, 2, 4, 2, 8]


def test_sizes_come_as_often_as_their_weights_say():
    stages = [Stage(1.0, (LONG, SHORT, THIRD), (3, 0, 1))]
    drawn = [grid_at(stages, 0, update, 0.0) for update in range(4000)]
    share = np.mean([grid == LONG for grid in drawn])
    assert SHORT not in drawn
    assert abs(share - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 4000)


def test_successive_draws_do_not_hang_together():
    drawn = np.array([grid_at(UNIFORM, 3, update, 0.0).rows for update in range(6000)])
    same = np.mean(drawn[1:] == drawn[:-1])
    assert abs(same - 1 / 3) < 4 * np.sqrt(2 / 9 / 6000)


@pytest.mark.parametrize(
    ("fraction", "grid"), [(0.0, THIRD), (0.4999, THIRD), (0.5, SHORT), (0.79, SHORT), (0.8, LONG), (1.0, LONG)]
)
def test_stages_follow_each_other(fraction, grid):
    stages = [Stage(share, (grid,), (1,)) for share, grid in ((0.5, THIRD), (0.3, SHORT), (0.2, LONG))]
    assert grid_at(stages, 0, 3, fraction) == grid
