"""Action recognition on the shared core: decoding, TimeSformer, ReViT-TimeSformer. Imports `revit.common` only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revit.common.inference.engine import Engine

if __name__ == "video":
    raise ImportError(
        "'video' was imported without its root, which would make a second copy of every class in it. "
        "Install the project (make install) and import 'revit.video' instead."
    )


def load(checkpoint: str, **how: Any) -> Engine:
    """A classifier of clips ready to answer: ours or a run's folder, or weights made elsewhere (see `open_classifier`).

    `how`: see `revit.common.inference.load.engine_of`, such as views, grid, topk, budget, device, dtype. Raises UserError.
    """
    # Imported here: processes that only decode start without torch.
    from revit.common.inference.load import engine_of
    from revit.video.classifier import open_classifier

    return engine_of(open_classifier(checkpoint), **how)
