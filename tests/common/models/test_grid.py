from __future__ import annotations

import pytest

from revit.common.models.grid import TokenGrid, longest_first


@pytest.mark.parametrize("value", [14, "14", "14x14", TokenGrid(14, 14)])
def test_parse_reads_all_spellings(value):
    assert TokenGrid.parse(value) == TokenGrid(14, 14)


def test_a_grid_need_not_be_square():
    grid = TokenGrid.parse("7x10")
    assert (grid.rows, grid.cols, grid.num_positions, grid.name) == (7, 10, 70, "7x10")


@pytest.mark.parametrize("value", ["14x", "big", "1x2x3", "0x4", ""])
def test_parse_refuses_with_the_value(value):
    with pytest.raises(ValueError, match="grid"):
        TokenGrid.parse(value)


@pytest.mark.parametrize("values", [[], [7, 14], [14, 14], ["7x10", "10x7"]])
def test_lists_must_descend(values):
    with pytest.raises(ValueError, match=r"grids|empty"):
        longest_first(values)
