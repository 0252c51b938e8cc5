"""Pictures and clips, as the tools know them: one entry for each `kind` of configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revit.common.config.load import load_by_kind
from revit.common.data.check.facts import Subject
from revit.common.modality.modality import Modality
from revit.common.speed.loading_rates import Decoders
from revit.common.timing.peers import Reference, Twin
from revit.image.data.check import look_at_picture
from revit.image.data.lists import EXTENSIONS as PICTURES
from revit.image.modality import IMAGE
from revit.image.peers import TimmViT
from revit.video.data.check import PRINTED_FRAMES, look_at_clip
from revit.video.data.decoders import CLIP_DECODERS
from revit.video.data.lists import EXTENSIONS as CLIPS
from revit.video.modality import VIDEO
from revit.video.peers import PYTORCHVIDEO, HuggingFaceTimeSformer

MODALITIES: dict[str, Modality[Any]] = {"image": IMAGE, "video": VIDEO}

PEERS: dict[str, tuple[Twin | Reference, ...]] = {
    "image": (Twin("timm", TimmViT),),
    "video": (Twin("huggingface", HuggingFaceTimeSformer), *PYTORCHVIDEO),
}
"""Models timed beside ours: implementations of the same model, and other architectures."""

DECODERS: dict[str, Decoders] = {"video": CLIP_DECODERS}
"""Libraries that files can be read with, where there is a choice."""

SUBJECTS: dict[str, Subject] = {
    "video": Subject(look_at_clip, PRINTED_FRAMES, CLIPS, span=lambda data: data.frames.span),
    "image": Subject(look_at_picture, 1, PICTURES),
}
"""What the data doctor reads."""


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Any, Modality[Any]]:
    """Read the run that a configuration describes, and its modality. UserError for mistakes in it."""
    options = load_by_kind({name: modality.run_options for name, modality in MODALITIES.items()}, path, overrides)
    return options, MODALITIES[options.kind]
