"""From one picture to the pixels a model sees: timm's transforms, and one that label maps follow (LV-ViT's token labels).

All give uint8; normalisation happens on the device. Random numbers come from the global generators of torch, numpy and
Python, which the data set seeds for every sample.

Letters: C channels, H and W height and width; k, h and w classes, rows and columns of a label map.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, AutoAugment, RandAugment
from torch import Tensor
from torchvision.transforms import Compose

from revit.common.data.augment.options import AugmentOptions
from revit.common.data.augment.policies import Picture, operations_of, read_policy, train_parts

if TYPE_CHECKING:
    from revit.image.data.options import PictureAugmentOptions, PicturePixelOptions

Pair = tuple[Picture, Tensor]
"""A picture and its label map, in place of the picture alone in a policy."""

MOVING = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
"""Operations of a policy that move pixels, by amounts that do not depend on the picture's size."""


def train_transform(pixels: PicturePixelOptions, augment: AugmentOptions) -> Callable[[Picture], Tensor]:
    """Return the transform to uint8 (C, H, W) in timm's own order: random-resized crop, flip, policy or colour jitter."""
    return Compose(train_parts(pixels.size, pixels.mean, augment))


@lru_cache(maxsize=8)
def eval_transform(pixels: PicturePixelOptions) -> Callable[[Picture], Tensor]:
    """Return the transform to uint8 (C, H, W): timm's resize and centre crop."""
    return create_transform(
        pixels.size,
        use_prefetcher=True,
        interpolation=pixels.interpolation,
        mean=pixels.mean,
        crop_pct=pixels.crop_pct,
        crop_mode=pixels.crop_mode,
    )


# -- label maps ----------------------------------------------------------------------------------------------------------


def can_be_followed(text: str) -> bool:
    """Return True if label maps can follow all that the policy does to a picture."""
    policy = read_policy(text)
    if not isinstance(policy, RandAugment | AutoAugment):
        return False  # AugMix blends several versions of a picture
    return not {operation.name for operation in operations_of(policy)} & {"TranslateX", "TranslateY"}


class FollowedTransform:
    """Transform an RGB picture and its label map (2, k, h, w) alike.

    The published order of LV-ViT: flip, policy or colour jitter, and the random-resized crop last. The map takes part in
    the flip and in the policy's moving operations (each replayed on the map with the random numbers that the picture's
    had; nearest cell, and logit 0 of class 0, the same as "nothing known", where nothing comes from). The crop is not
    cut out of the map but returned as four fractions of the picture, top, left, height, width, for region-align.

    As published, the operations act on the map in the map's own axes: for a picture that is not square a rotation of
    the one is not quite a rotation of the other.
    """

    def __init__(self, pixels: PicturePixelOptions, augment: PictureAugmentOptions) -> None:
        self.flip_probability = augment.flip_probability
        first, second, last = train_parts(
            pixels.size, pixels.mean, augment.model_copy(update={"flip_probability": 0.0})
        )
        (self.crop,) = first.transforms
        self.changes = [_followed(change) for change in second.transforms]
        self.last = last

    def __call__(self, picture: Picture, label_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return uint8 (C, H, W), the map (2, k, h, w), and the crop (4,)."""
        if float(torch.rand(())) < self.flip_probability:
            picture, label_map = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), label_map.flip(-1)
        for change in self.changes:
            picture, label_map = change((picture, label_map))
        state = random.getstate()
        top, left, height, width = self.crop.get_params(picture, self.crop.scale, self.crop.ratio)
        random.setstate(state)  # so that the crop draws the same
        columns, rows = picture.size
        crop = torch.tensor([top / rows, left / columns, height / rows, width / columns])
        return self.last(self.crop(picture)), label_map, crop


@dataclass(frozen=True)
class Followed:
    """A change of pictures made into one of pairs. The random numbers of a moving operation are drawn twice alike."""

    change: Callable[[Picture], Picture]

    def __call__(self, pair: Pair) -> Pair:
        picture, label_map = pair
        state = random.getstate()
        picture = self.change(picture)
        if isinstance(self.change, AugmentOp) and self.change.name in MOVING:
            after = random.getstate()
            random.setstate(state)
            label_map = move_map(label_map, self.change)
            random.setstate(after)
        return picture, label_map


def move_map(label_map: Tensor, operation: AugmentOp) -> Tensor:
    """Move a map (2, k, h, w) by one of `MOVING`, every layer alike: nearest cell, 0 where nothing comes from."""
    on_map = copy(operation)
    on_map.kwargs = {"fillcolor": 0, "resample": Image.Resampling.NEAREST}
    start = random.getstate()
    layers = []
    for layer in label_map.flatten(0, 1).numpy():
        random.setstate(start)
        layers.append(np.array(on_map(Image.fromarray(layer))))  # float32, PIL's mode F
    return torch.from_numpy(np.stack(layers)).view_as(label_map)


def _followed(change: Any) -> Callable[[Pair], Pair]:
    """Return one of timm's changes of pictures as a change of pairs; policies draw their operations as ever."""
    if isinstance(change, RandAugment):
        change.ops = [Followed(operation) for operation in change.ops]
        return change
    if isinstance(change, AutoAugment):
        change.policy = [[Followed(operation) for operation in chain] for chain in change.policy]
        return change
    return Followed(change)
