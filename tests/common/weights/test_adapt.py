from __future__ import annotations

import torch

from revit.common.models.grid import TokenGrid
from revit.common.models.load_report import LoadReport
from revit.common.weights.adapt import rename_grids

NAMES = ("pos_embed", "short_pos_embed.7x7", "blocks.0.norm1.short.7x7.weight", "patch_embed.stems.14x14.0.weight")


def renamed(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[list[str], LoadReport]:
    tensors, report = ({name: torch.tensor(number) for number, name in enumerate(NAMES)}, LoadReport("a source"))
    rename_grids(tensors, *([TokenGrid(side, side) for side in sides] for sides in (before, after)), report)
    assert [int(tensor) for tensor in tensors.values()] == list(range(len(NAMES)))
    return list(tensors), report


def test_grids_of_the_same_rank_are_joined_at_once() -> None:
    names, report = renamed((14, 7), (28, 14))
    assert names == [
        "pos_embed",
        "short_pos_embed.14x14",
        "blocks.0.norm1.short.14x14.weight",
        "patch_embed.stems.28x28.0.weight",
    ]
    assert report.notes == ["every grid starts from the source's grid of the same rank: 14x14 -> 28x28, 7x7 -> 14x14"]


def test_the_same_grids_another_count_and_unknown_ones_keep_their_names() -> None:
    for after in ((14, 7), (14, 10, 7)):
        assert renamed((14, 7), after)[0] == list(NAMES)
    assert renamed((), (14, 7))[0] == list(NAMES)
