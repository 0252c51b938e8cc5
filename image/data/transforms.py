"""From one picture to the pixels a model sees: timm's transforms, and a form of them that label maps follow.

All give uint8; normalisation happens on the device. Random numbers come from the global generators of torch, numpy and
Python, which the data set seeds for every sample.

Letters: C channels, H and W height and width; k, h and w classes, rows and columns of a label map.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, AutoAugment, RandAugment
from torch import Tensor

if TYPE_CHECKING:
    from revit.image.data.options import AugmentOptions, PicturePixelOptions

Picture = Image.Image

MOVING = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
"""Operations of a policy that move pixels, by amounts that do not depend on the picture's size."""


def train_transform(pixels: PicturePixelOptions, augment: AugmentOptions) -> Callable[[Picture], Tensor]:
    """RGB picture -> uint8 (C, H, W), timm's own order: random-resized crop, flip, policy or colour jitter."""
    return create_transform(pixels.size, is_training=True, use_prefetcher=True, **_settings(pixels, augment))


@lru_cache(maxsize=8)
def eval_transform(pixels: PicturePixelOptions) -> Callable[[Picture], Tensor]:
    """RGB picture -> uint8 (C, H, W): timm's resize and centre crop."""
    return create_transform(
        pixels.size,
        use_prefetcher=True,
        interpolation=pixels.interpolation,
        mean=pixels.mean,
        crop_pct=pixels.crop_pct,
        crop_mode=pixels.crop_mode,
    )


class FollowedTransform:
    """RGB picture and its label map (2, k, h, w) -> uint8 (C, H, W), the map moved alike, and where the crop lies.

    The published order of LV-ViT: flip, policy or colour jitter, and the random-resized crop last. The map takes part in
    the flip and in the policy's moving operations (each replayed on the map with the random numbers that the picture's
    had; nearest cell, and logit 0 of class 0, the same as "nothing known", where nothing comes from). The crop is not
    cut out of the map but returned as four fractions of the picture, top, left, height, width, for region-align.

    As published, the operations act on the map in the map's own axes: for a picture that is not square a rotation of
    the one is not quite a rotation of the other.
    """

    def __init__(self, pixels: PicturePixelOptions, augment: AugmentOptions) -> None:
        self.flip_probability = augment.flip_probability
        settings = {**_settings(pixels, augment), "hflip": 0.0}
        first, second, last = create_transform(
            pixels.size, is_training=True, use_prefetcher=True, separate=True, **settings
        )
        (self.crop,) = first.transforms
        self.changes = [_followed(change) for change in second.transforms]
        self.last = last

    def __call__(self, picture: Picture, label_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 (C, H, W), (2, k, h, w) and (4,) fractions top, left, height, width."""
        if float(torch.rand(())) < self.flip_probability:
            picture, label_map = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), label_map.flip(-1)
        pair = Pair(picture, label_map)
        for change in self.changes:
            pair = change(pair)
        top, left, height, width = _crop_box(self.crop, pair.picture)
        columns, rows = pair.picture.size
        crop = torch.tensor([top / rows, left / columns, height / rows, width / columns])
        return self.last(self.crop(pair.picture)), pair.label_map, crop


@dataclass(frozen=True)
class Pair:
    """What travels through a policy instead of a picture alone."""

    picture: Picture
    label_map: Tensor


@dataclass(frozen=True)
class Followed:
    """A change of pictures made into one of pairs. The random numbers of a moving operation are drawn twice alike."""

    change: Callable[[Picture], Picture]

    def __call__(self, pair: Pair) -> Pair:
        state = random.getstate()
        picture = self.change(pair.picture)
        if not isinstance(self.change, AugmentOp) or self.change.name not in MOVING:
            return replace(pair, picture=picture)
        after = random.getstate()
        random.setstate(state)
        label_map = move_map(pair.label_map, self.change)
        random.setstate(after)
        return Pair(picture, label_map)


def move_map(label_map: Tensor, operation: AugmentOp) -> Tensor:
    """(2, k, h, w) moved by one of `MOVING`, every layer alike: nearest cell, 0 where nothing comes from."""
    on_map = copy(operation)
    on_map.kwargs = {"fillcolor": 0, "resample": Image.Resampling.NEAREST}
    start = random.getstate()
    layers = []
    for layer in label_map.flatten(0, 1).numpy():
        random.setstate(start)
        layers.append(np.array(on_map(Image.fromarray(layer))))  # float32, PIL's mode F
    return torch.from_numpy(np.stack(layers)).view_as(label_map)


def check_policy(text: str) -> None:
    """ValueError unless timm knows the policy."""
    try:
        _policy(text)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"auto_augment {text!r} is no policy that timm knows ({error}); DeiT's is rand-m9-mstd0.5-inc1"
        ) from None


def can_be_followed(text: str) -> bool:
    """Whether label maps can follow all that the policy does to a picture."""
    policy = _policy(text)
    if isinstance(policy, RandAugment):
        operations = list(policy.ops)
    elif isinstance(policy, AutoAugment):
        operations = [operation for chain in policy.policy for operation in chain]
    else:
        return False
    return not {operation.name for operation in operations} & {"TranslateX", "TranslateY"}


def _policy(text: str) -> Any:
    """timm's object for the text of a policy."""
    if not text:
        raise ValueError("empty text; null means none")
    _, changes, _ = create_transform(224, is_training=True, auto_augment=text, separate=True)
    return changes.transforms[0]


def _followed(change: Any) -> Callable[[Pair], Pair]:
    """One of timm's changes of pictures as a change of pairs; policies draw their operations as ever."""
    if isinstance(change, RandAugment):
        change.ops = [Followed(operation) for operation in change.ops]
        return change
    if isinstance(change, AutoAugment):
        change.policy = [[Followed(operation) for operation in chain] for chain in change.policy]
        return change
    return Followed(change)


def _crop_box(crop: Any, picture: Picture) -> tuple[int, int, int, int]:
    """Top, left, height and width of the crop that `crop` will draw next."""
    state = random.getstate()
    box = crop.get_params(picture, crop.scale, crop.ratio)
    random.setstate(state)
    return box


def _settings(pixels: PicturePixelOptions, augment: AugmentOptions) -> dict[str, Any]:
    return {
        "scale": augment.scale,
        "ratio": augment.ratio,
        "hflip": augment.flip_probability,
        "color_jitter": augment.color_jitter,
        "auto_augment": augment.auto_augment,
        "interpolation": augment.interpolation,
        "mean": pixels.mean,
    }
