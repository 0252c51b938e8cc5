"""A classifier ready to answer, in one call."""

from __future__ import annotations

from typing import Any

from revit.common.drawing.gallery import Gallery
from revit.common.modality.modality import Classifier
from revit.common.models.grid import TokenGrid
from revit.common.serving.engine import Engine
from revit.common.serving.options import Serving
from revit.common.system.errors import UserError


def engine_of(
    classifier: Classifier,
    *,
    views: str | int = "1",
    grid: TokenGrid | str | None = None,
    topk: int = 5,
    budget: str | float | None = None,
    gallery: Gallery | None = None,
    **serving: Any,
) -> Engine:
    """An engine for a classifier that was opened. `serving`: fields of `Serving`; the rest as `Engine`.

    Raises UserError as `Engine`, and for a grid that cannot be read; TypeError for a keyword that there is not.
    """
    if isinstance(grid, str):
        try:
            grid = TokenGrid.parse(grid)
        except ValueError as error:
            raise UserError(f"grid: {error}") from None
    said = None if budget is None else str(budget)  # a number alone is refused with what a budget looks like
    return Engine(classifier, Serving(**serving), views=str(views), grid=grid, topk=topk, budget=said, gallery=gallery)
