"""Image classification on the shared core. Imports `revit.common` only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revit.common.serving.engine import Engine

if __name__ == "image":
    raise ImportError(
        "'image' was imported without its root, which would make a second copy of every class in it. "
        "Install the project (make install) and import 'revit.image' instead."
    )


def load(checkpoint: str, **how: Any) -> Engine:
    """Load a classifier of pictures: our checkpoint or a run's folder, or weights made elsewhere (see `open_classifier`).

    `how`: see `revit.common.serving.engine.Engine`, such as views, grid, topk, budget, device, dtype. Raises UserError.
    """
    # Slow to import: processes that only decode start without torch.
    from revit.common.serving.engine import Engine
    from revit.image.modality import open_classifier

    return Engine(open_classifier(checkpoint), **how)
