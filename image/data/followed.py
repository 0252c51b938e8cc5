"""timm's training transform in a form that label maps follow (LV-ViT's token labels).

Letters: C channels, H and W height and width; k, h and w classes, rows and columns of a label map.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import AugmentOp, AutoAugment, RandAugment
from torch import Tensor

from revit.image.data.transforms import Picture, operations_of, read_policy, train_parts

if TYPE_CHECKING:
    from revit.image.data.options import AugmentOptions, PicturePixelOptions

MOVING = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
"""Operations of a policy that move pixels, by amounts that do not depend on the picture's size."""


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
        first, second, last = train_parts(pixels, augment.model_copy(update={"flip_probability": 0.0}))
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


def can_be_followed(text: str) -> bool:
    """Whether label maps can follow all that the policy does to a picture."""
    policy = read_policy(text)
    if not isinstance(policy, (RandAugment, AutoAugment)):
        return False  # AugMix blends several versions of a picture
    return not {operation.name for operation in operations_of(policy)} & {"TranslateX", "TranslateY"}


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
