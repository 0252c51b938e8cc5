"""What the tools know of pictures and of clips: one line for each kind of configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revit.common.config.load import load_by_kind
from revit.common.modality.classifier import Kind
from revit.common.speed.loading_rates import Decoders
from revit.common.timing.peers import Peers, Twin
from revit.image.classifier import IMAGE
from revit.image.peers import TimmViT
from revit.video.classifier import VIDEO
from revit.video.data.decoders import CLIP_DECODERS
from revit.video.peers import HuggingFaceTimeSformer
from revit.video.references import PYTORCHVIDEO

KINDS: dict[str, Kind] = {"image": IMAGE, "video": VIDEO}

PEERS: dict[str, Peers] = {
    "image": Peers((Twin("timm", TimmViT),)),
    "video": Peers((Twin("huggingface", HuggingFaceTimeSformer),), PYTORCHVIDEO),
}
"""What is timed beside ours: implementations of the same model, and other architectures."""

DECODERS: dict[str, Decoders] = {"video": CLIP_DECODERS}
"""What files can be read with, where there is a choice."""


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Any, Kind]:
    """The run that a configuration describes, and its kind. UserError for mistakes in it."""
    options = load_by_kind({name: kind.run_options for name, kind in KINDS.items()}, path, overrides)
    return options, KINDS[options.kind]
