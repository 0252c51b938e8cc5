"""What the tools know of pictures and of clips: one line for each kind of configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from revit.common.config import load_by_kind
from revit.common.engine.classifier import Kind
from revit.image.classifier import IMAGE
from revit.image.peers import TimmDeiT
from revit.video.classifier import VIDEO
from revit.video.peers import HuggingFaceTimeSformer

KINDS: dict[str, Kind] = {"image": IMAGE, "video": VIDEO}

PEERS: dict[str, tuple[str, Callable[[Any], nn.Module]]] = {
    "image": ("timm", TimmDeiT),
    "video": ("huggingface", HuggingFaceTimeSformer),
}
"""Whose implementation of the same model is timed beside ours, and how it is made from ours."""


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Any, Kind]:
    """The run that a configuration describes, and its kind. UserError for mistakes in it."""
    options = load_by_kind({name: kind.run_options for name, kind in KINDS.items()}, path, overrides)
    return options, KINDS[options.kind]
