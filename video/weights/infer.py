"""The architecture behind a bare weight file, read off names and shapes: enough to classify without a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from revit.common.system.errors import UserError
from revit.common.weights.source import Known, Source, heads_of, read_shapes, shape_of
from revit.video.data.options import ClipOptions, FrameOptions, PixelOptions
from revit.video.models.timesformer import AttentionKind
from revit.video.options import VideoModel

PUBLISHED_SHORT_SIDES = {224: (256, 320), 448: (448, 512)}
"""Crop size -> training's smallest and largest short side in the published recipes."""
PUBLISHED_RATES = {8: 32, 16: 16, 96: 4}
"""Frame count -> sampling rate in the published recipes."""


@dataclass(frozen=True)
class Inferred:
    """A model to build and the clips it wants."""

    model: VideoModel
    clips: ClipOptions
    num_classes: int
    assumed: tuple[str, ...]
    """Facts that the weights do not tell, taken from the published recipes."""


def infer(source: Source) -> Inferred:
    """Read the model and its clips off a video model's weights.

    Shapes give width, depth, patch, frames, classes and the kind of attention; what lies beside the weights (`facts`)
    goes before any guess: heads are 64 wide and clips are those of the published recipes unless it says otherwise.

    Raises:
        UserError: an image model, or shapes that make no TimeSformer.
    """
    if source.kind != "video":
        raise UserError(
            f"{source.where}: image weights cannot classify clips; train from them with start.source, or give a "
            "TimeSformer"
        )
    tensors, known = source.tensors, Known(source.facts)
    shapes, kernel = read_shapes(source, "TimeSformer")
    (grid,), width = shapes["grids"], shapes["embed_dim"]
    size = grid.rows * kernel
    if "time_embed" in tensors:
        num_frames = shape_of(source, "TimeSformer", "time_embed", (1, None, width))[1]
    else:
        num_frames = known.get("num_frames", 8, "8 frames")
    heads = heads_of(source, known, width)
    rate = PUBLISHED_RATES.get(num_frames, 32)
    rate = known.get("sampling_rate", rate, f"{num_frames} frames at a sampling rate of {rate}")
    mean = known.get("mean", (0.45,) * 3, "pixel mean 0.45")
    std = known.get("std", (0.225,) * 3, "pixel std 0.225")
    low, high = PUBLISHED_SHORT_SIDES.get(size, (size * 8 // 7, size * 10 // 7))
    return Inferred(
        model=VideoModel(**{**shapes, "grids": (grid.name,)}, num_heads=heads, attention=_attention(tensors)),
        clips=ClipOptions(
            frames=FrameOptions(num_frames=num_frames, sampling_rate=rate),
            pixels=PixelOptions(crop_size=size, jitter_min=low, jitter_max=high, mean=mean, std=std),
        ),
        num_classes=shapes["num_classes"],
        assumed=tuple(known.assumed),
    )


def _attention(tensors: Mapping[str, Tensor]) -> AttentionKind:
    if any(".temporal_attn." in name for name in tensors):
        return "divided_space_time"
    return "joint_space_time" if "time_embed" in tensors else "space_only"
