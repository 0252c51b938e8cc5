"""From one picture to the pixels a model sees: timm's transforms, and one that label maps follow (LV-ViT's token labels); then
what timm does to whole batches on the device, random erasing, mixup and cutmix.

Transforms of one picture give uint8; normalisation happens on the device. Random numbers come from the global generators of torch, numpy and
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
from timm.data import Mixup, create_transform
from timm.data.auto_augment import AugmentOp, AutoAugment, RandAugment
from timm.data.auto_augment import posterize as timm_posterize
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import Compose

from revit.common.data.batch import Batch

if TYPE_CHECKING:
    from revit.image.data.options import AugmentOptions, MixOptions, PicturePixelOptions

Picture = Image.Image
Pair = tuple[Picture, Tensor]
"""A picture and its label map, in place of the picture alone in a policy."""

MOVING = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
"""Operations of a policy that move pixels, by amounts that do not depend on the picture's size."""


def train_transform(pixels: PicturePixelOptions, augment: AugmentOptions) -> Callable[[Picture], Tensor]:
    """Return the transform to uint8 (C, H, W) in timm's own order: random-resized crop, flip, policy or colour jitter."""
    return Compose(train_parts(pixels, augment))


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


def train_parts(pixels: PicturePixelOptions, augment: AugmentOptions) -> tuple[Compose, Compose, Compose]:
    """Return timm's three parts: crop and flip, policy or colour jitter, and to a tensor."""
    parts = create_transform(
        pixels.size,
        is_training=True,
        use_prefetcher=True,
        separate=True,
        scale=augment.scale,
        ratio=augment.ratio,
        hflip=augment.flip_probability,
        color_jitter=augment.color_jitter,  # type: ignore[arg-type]  # None is allowed
        auto_augment=augment.auto_augment,
        interpolation=augment.interpolation,
        mean=pixels.mean,
    )
    for change in parts[1].transforms:
        for operation in operations_of(change):
            if operation.aug_fn is timm_posterize:
                operation.aug_fn = posterize
    return parts


def posterize(picture: Picture, bits_to_keep: int, **settings: Any) -> Picture:
    """Apply timm's, which also asks for 0 bits: older PIL answers with black, newer PIL (13) would end the training."""
    if bits_to_keep < 1:
        return Image.new(picture.mode, picture.size)
    return timm_posterize(picture, bits_to_keep, **settings)


def read_policy(text: str) -> Any:
    """Return timm's object for the text of a policy. ValueError unless timm knows it."""
    try:
        if not text:
            raise ValueError("empty text; null means none")
        _, changes, _ = create_transform(224, is_training=True, auto_augment=text, separate=True)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"auto_augment {text!r} is no policy that timm knows ({error}); DeiT's is rand-m9-mstd0.5-inc1"
        ) from None
    return changes.transforms[0]


def operations_of(policy: Any) -> list[AugmentOp]:
    """Return all operations that a policy, or another change of pictures, may draw."""
    if isinstance(policy, AutoAugment):
        return [operation for chain in policy.policy for operation in chain]
    return list(getattr(policy, "ops", ()))


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

    def __init__(self, pixels: PicturePixelOptions, augment: AugmentOptions) -> None:
        self.flip_probability = augment.flip_probability
        first, second, last = train_parts(pixels, augment.model_copy(update={"flip_probability": 0.0}))
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


# -- batches ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PictureAugment:
    """Changes a batch of normalised pictures (B, C, H, W).

    Where pictures are mixed, targets become float (B, K), rows summing to 1; sample i is mixed with sample B-1-i (timm).
    The targets are not smoothed: smoothing is the loss's, and as mixing is linear it comes to the same.

    Random numbers come from the global generators of Python (erasing), numpy (mixing) and torch (noise that replaces
    pixels).
    """

    erase: RandomErasing | None
    mix: Mixup | None

    def __call__(self, inputs: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        if self.erase is not None:
            self.erase.device = inputs.device  # timm wants it earlier than it is known
            inputs = inputs.clone()
            self.erase(inputs)
        if self.mix is None:
            return inputs, batch
        # timm mixes even batches only; the last of an odd one (a broken picture left out) stays as it is.
        even = len(inputs) // 2 * 2
        mixed, targets = inputs[:0], batch.targets.new_empty(0, self.mix.num_classes, dtype=torch.float32)
        if even:
            mixed, targets = self.mix(inputs[:even].clone(), batch.targets[:even])
        rest = mixup_target(batch.targets[even:], self.mix.num_classes)
        return torch.cat([mixed, inputs[even:]]), replace(batch, targets=torch.cat([targets, rest]))


def build_batch_augment(augment: AugmentOptions, mix: MixOptions, num_classes: int) -> PictureAugment | None:
    """Build the augmentation that the options ask for; None for nothing."""
    erase = mixer = None
    if augment.erase_probability > 0:
        erase = RandomErasing(
            augment.erase_probability, mode=augment.erase_mode, max_count=augment.erase_count, device="cpu"
        )
    if mix.mixes:
        mixer = Mixup(
            mixup_alpha=mix.mixup,
            cutmix_alpha=mix.cutmix,
            prob=mix.probability,
            switch_prob=mix.switch_probability,
            mode=mix.mode,
            label_smoothing=0.0,
            num_classes=num_classes,
        )
    return PictureAugment(erase, mixer) if erase or mixer else None
