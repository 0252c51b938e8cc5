"""The architecture behind a bare weight file, read off names and shapes: enough to classify without a configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from revit.common.errors import UserError
from revit.common.tokens.grid import TokenGrid
from revit.common.weights.source import Source
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
    """What the weights do not say and was taken from the published recipes."""


def infer(source: Source) -> Inferred:
    """The model and the clips of a video model's weights.

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
    tensors, facts, assumed = source.tensors, source.facts, []

    def fact(key: str, otherwise: Any, text: str) -> Any:
        if key in facts:
            return facts[key]
        assumed.append(text)
        return otherwise

    try:
        width, _, *patch = tensors["patch_embed.proj.weight"].shape
        hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
        num_classes = tensors["head.weight"].shape[0]
        num_positions = tensors["pos_embed"].shape[1] - 1
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{source.where}: not a whole TimeSformer with its classifier ({error} is missing)"
        ) from error
    side = math.isqrt(num_positions)
    grid = source.grids[0] if source.grids else TokenGrid(side, side)
    if grid.num_positions != num_positions or grid.rows != grid.cols or len(set(patch)) != 1:
        raise UserError(f"{source.where}: {num_positions} positions of {patch} pixels are no square picture")
    size = grid.rows * patch[0]

    blocks = {int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    if "time_embed" in tensors:
        num_frames = tensors["time_embed"].shape[1]
    else:
        num_frames = int(fact("num_frames", 8, "8 frames"))
    heads = fact("num_heads", max(1, width // 64), "heads 64 wide")
    rate = PUBLISHED_RATES.get(num_frames, 32)
    rate = fact("sampling_rate", rate, f"{num_frames} frames at a sampling rate of {rate}")
    mean = fact("mean", (0.45,) * 3, "pixel mean 0.45")
    std = fact("std", (0.225,) * 3, "pixel std 0.225")
    low, high = PUBLISHED_SHORT_SIDES.get(size, (size * 8 // 7, size * 10 // 7))
    return Inferred(
        model=VideoModel(
            grids=(grid.name,),
            num_classes=num_classes,
            embed_dim=width,
            depth=len(blocks),
            num_heads=heads,
            attention=_attention(tensors),
            mlp_ratio=hidden / width,
            qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        ),
        clips=ClipOptions(
            frames=FrameOptions(num_frames=num_frames, sampling_rate=rate),
            pixels=PixelOptions(crop_size=size, jitter_min=low, jitter_max=high, mean=mean, std=std),
        ),
        num_classes=num_classes,
        assumed=tuple(assumed),
    )


def _attention(tensors: Mapping[str, Tensor]) -> AttentionKind:
    if any(".temporal_attn." in name for name in tensors):
        return "divided_space_time"
    return "joint_space_time" if "time_embed" in tensors else "space_only"
