"""From what a model was given and did to what is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from revit.common.drawing.cells import cells_of
from revit.common.drawing.sheet import Look
from revit.common.models.base import Reduction
from revit.common.models.grid import TokenGrid


def looks_of(
    model: nn.Module, views: Tensor, grids: Sequence[TokenGrid], reductions: Sequence[Reduction | None]
) -> list[Look]:
    """uint8 views (V, C, H, W) or (V, C, T, H, W) as the model saw them, before they were normalised; the grid of each, and
    what a reducer did to it."""
    sides = (views.shape[-2], views.shape[-1])
    longest: TokenGrid = model.grids[0]  # type: ignore[assignment, index]
    looks = []
    for view, grid, reduction in zip(views, grids, reductions):
        pixels = np.ascontiguousarray(view.movedim(0, -1).expand(*view.shape[1:], 3).cpu().numpy())
        trail = () if reduction is None else tuple(one.cpu().numpy() for one in reduction.token_source_maps)
        # One row of fates is for the whole input; several are one for each frame.
        trail = tuple(fates[0] if len(fates) == 1 else fates for fates in trail)
        most = cells_of(model, longest, sides).map.num_positions
        looks.append(Look(pixels, cells_of(model, grid, sides), trail, most))
    return looks
