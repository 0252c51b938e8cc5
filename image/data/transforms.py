"""From one picture to the pixels a model sees: timm's transforms.

All give uint8; normalisation happens on the device. Random numbers come from the global generators of torch, numpy and
Python, which the data set seeds for every sample.

Letters: C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, AutoAugment
from timm.data.auto_augment import posterize as timm_posterize
from torch import Tensor
from torchvision.transforms import Compose

if TYPE_CHECKING:
    from revit.image.data.options import AugmentOptions, PicturePixelOptions

Picture = Image.Image


def train_transform(pixels: PicturePixelOptions, augment: AugmentOptions) -> Callable[[Picture], Tensor]:
    """RGB picture -> uint8 (C, H, W), timm's own order: random-resized crop, flip, policy or colour jitter."""
    return Compose(train_parts(pixels, augment))


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


def check_policy(text: str) -> None:
    """ValueError unless timm knows the policy."""
    try:
        read_policy(text)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"auto_augment {text!r} is no policy that timm knows ({error}); DeiT's is rand-m9-mstd0.5-inc1"
        ) from None


def read_policy(text: str) -> Any:
    """timm's object for the text of a policy."""
    if not text:
        raise ValueError("empty text; null means none")
    _, changes, _ = create_transform(224, is_training=True, auto_augment=text, separate=True)
    return changes.transforms[0]


def operations_of(policy: Any) -> list[AugmentOp]:
    """Everything that a policy, or another change of pictures, may draw."""
    if isinstance(policy, AutoAugment):
        return [operation for chain in policy.policy for operation in chain]
    return list(getattr(policy, "ops", ()))


def train_parts(pixels: PicturePixelOptions, augment: AugmentOptions) -> tuple[Compose, Compose, Compose]:
    """timm's three parts: crop and flip, policy or colour jitter, and to a tensor."""
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
    """timm's, which also asks for 0 bits: older PIL answers with black, newer PIL (13) would end the training."""
    if bits_to_keep < 1:
        return Image.new(picture.mode, picture.size)
    return timm_posterize(picture, bits_to_keep, **settings)
