"""What the tools know of pictures and of clips: one line for each kind of configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from revit.common.config import load_by_kind
from revit.common.engine.package import Package
from revit.common.engine.run_options import RecipeOptions
from revit.image.build import ImagePackage
from revit.image.options import ImageRun
from revit.video.build import VideoPackage
from revit.video.options import VideoRun
from revit.video.peers import checked_twin


@dataclass(frozen=True)
class Kind:
    """A kind of configuration."""

    run_options: type[RecipeOptions]
    package: Package
    peer: str
    """Whose implementation of the same model is timed beside ours."""
    checked_twin: Callable[[Any, Tensor], nn.Module]
    """(our model, inputs) -> that implementation with our weights, after both gave the same."""


KINDS = {
    "image": Kind(ImageRun, ImagePackage(), "timm", checked_twin),
    "video": Kind(VideoRun, VideoPackage(), "huggingface", checked_twin),
}


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Any, Kind]:
    """The run that a configuration describes, and its kind. UserError for mistakes in it."""
    options = load_by_kind({name: kind.run_options for name, kind in KINDS.items()}, path, overrides)
    return options, KINDS[options.kind]
