"""From frames to the pixels a model sees: uint8 in, uint8 out, the same random numbers for all frames of a clip.

Resizing happens on uint8 before normalisation; the published code normalises first, in floats. Both are linear, so the
results differ by the rounding to whole levels only. Without `antialias` (the published choice and the default) shrinking
picks up aliasing. Where the decoder has resized already (`pixels.resize`), frames come with the wanted short side and are
left as they are.

Letters: C channels, T frames, H and W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from revit.common.data.augment.options import AugmentOptions
from revit.video.data.decode.pyav import short_side_size
from revit.video.data.options import PixelOptions

PUBLISHED = AugmentOptions()
"""No augmentation but the crop and the flip of `PixelOptions`."""


def resize_short_side(clip: Tensor, short_side: int, antialias: bool = False) -> Tensor:
    """Resize (T, C, H, W) so that the shorter side has `short_side` pixels; the longer one is rounded down (published)."""
    height, width = clip.shape[-2:]
    if min(height, width) == short_side:
        return clip
    return F.resize(clip, list(short_side_size(height, width, short_side)), antialias=antialias)


def random_short_side(
    low: int, high: int, sampling: Literal["uniform", "inverse-uniform"], generator: Generator
) -> int:
    """Draw a short side between `low` and `high`: itself uniform, or its inverse, then rounded."""
    share = float(torch.rand((), generator=generator))
    if sampling == "uniform":
        return round(low + share * (high - low))
    return round(1 / (1 / high + share * (1 / low - 1 / high)))


def random_crop(clip: Tensor, size: int, offsets: Literal["all", "published"], generator: Generator) -> Tensor:
    """Cut a square of `size` pixels at a random place from (T, C, H, W); `published` never takes the last offset."""

    def offset(room: int) -> int:
        choices = room + 1 if offsets == "all" else max(room, 1)
        return int(torch.randint(choices, (), generator=generator))

    height, width = clip.shape[-2:]
    return F.crop(clip, offset(height - size), offset(width - size), size, size)


def spatial_crop(clip: Tensor, size: int, position: Literal[0, 1, 2]) -> Tensor:
    """Cut a square along the longer side of (T, C, H, W): 0 left or top, 1 centre, 2 right or bottom.

    The other side is centred; a centre between two pixels goes to the later one (published: 240x320 shrunk to 224x298
    is cut at 0, 37 and 74).
    """
    height, width = clip.shape[-2:]
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if position != 1:
        end = position == 2
        if height > width:
            top = height - size if end else 0
        else:
            left = width - size if end else 0
    return F.crop(clip, top, left, size, size)


@lru_cache(maxsize=8)
def frame_changes(options: PixelOptions, augment: AugmentOptions) -> Callable[[Tensor, Generator], Tensor] | None:
    """Return timm's changes of pictures, made alike to all frames of a clip, uint8 (T, C, H, W): the crop of `scale` and the
    flip where `scale` is given, then policy or colour jitter. None for none of them."""
    if augment.scale is None and augment.auto_augment is None and augment.color_jitter is None:
        return None
    # Imported here: it takes most of a second, and clips are mostly read without.
    from revit.common.data.augment.policies import change_alike, train_parts

    size, flip = (options.crop_size, options.crop_size), flip_probability(options, augment)
    crop, change, _ = train_parts(size, options.mean, augment.model_copy(update={"flip_probability": flip}))
    if augment.scale is not None:
        change.transforms = [*crop.transforms, *change.transforms]
    return partial(change_alike, change)


def flip_probability(options: PixelOptions, augment: AugmentOptions) -> float:
    """Return the chance of a left-right flip."""
    return options.flip_probability if augment.flip_probability is None else augment.flip_probability


def train_short_side(options: PixelOptions, generator: Generator) -> int:
    """Draw the short side of one clip, before the clip is read so that the decoder can do the resizing."""
    return random_short_side(options.jitter_min, options.jitter_max, options.scale_sampling, generator)


def train_pixels(
    clip: Tensor, options: PixelOptions, short_side: int, generator: Generator, augment: AugmentOptions = PUBLISHED
) -> Tensor:
    """Crop, flip and augment one clip: uint8 (T, C, H, W) to (C, T, size, size), all frames alike.

    short_side: that of the crop which is taken where `augment.scale` is null.
    """
    if augment.scale is None:
        clip = resize_short_side(clip, short_side, options.antialias)
        clip = random_crop(clip, options.crop_size, options.crop_offsets, generator)
        if float(torch.rand((), generator=generator)) < flip_probability(options, augment):
            clip = F.horizontal_flip(clip)
    changes = frame_changes(options, augment)
    return _finish(clip if changes is None else changes(clip, generator), options)


def eval_short_side(options: PixelOptions, num_crops: int) -> int:
    """Return the short side of a test: `jitter_min` for one crop, the crop size for three. (Published.)"""
    return options.jitter_min if num_crops == 1 else options.crop_size


def eval_pixels(clip: Tensor, options: PixelOptions, num_crops: int) -> Tensor:
    """Return the crops of one clip: uint8 (T, C, H, W) to (num_crops, C, T, size, size).

    Resized to `eval_short_side`; one crop is the centre, three are left, centre and right, or top, centre and bottom.
    """
    clip = resize_short_side(clip, eval_short_side(options, num_crops), options.antialias)
    places: tuple[Literal[0, 1, 2], ...] = (1,) if num_crops == 1 else (0, 1, 2)
    return torch.stack([_finish(spatial_crop(clip, options.crop_size, at), options) for at in places])


def _finish(clip: Tensor, options: PixelOptions) -> Tensor:
    """Turn (T, C, H, W) to contiguous (C, T, H, W), channels as the weights expect them."""
    if options.channel_order == "bgr":
        clip = clip.flip(1)
    return clip.transpose(0, 1).contiguous()
