"""timm's changes of single training pictures, and how all frames of a clip are changed by one draw.

Random numbers come from the global generators of torch, numpy and Python, which the data set seeds for every sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, AutoAugment
from timm.data.auto_augment import posterize as timm_posterize
from torch import Generator, Tensor
from torchvision.transforms import Compose

from revit.common.data.augment.options import AugmentOptions
from revit.common.data.dataset import global_generators_seeded

Picture = Image.Image


def train_parts(
    size: tuple[int, int], mean: Sequence[float], augment: AugmentOptions
) -> tuple[Compose, Compose, Compose]:
    """Return timm's three parts: crop of `scale` to `size` (height, width) and flip, policy or colour jitter, and to a tensor.

    mean: the grey, of pixels in [0, 1], of what a policy moves in from outside. Options that are null are taken as timm's.
    """
    crop: dict[str, Any] = {"scale": augment.scale, "hflip": augment.flip_probability}
    parts = create_transform(
        size,
        is_training=True,
        use_prefetcher=True,
        separate=True,
        ratio=augment.ratio,
        color_jitter=augment.color_jitter,  # type: ignore[arg-type]  # None is allowed
        auto_augment=augment.auto_augment,
        interpolation=augment.interpolation,
        mean=tuple(mean),
        **{name: value for name, value in crop.items() if value is not None},
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
        for part in text.split("-")[1:]:
            if not part.startswith("t") and not any(letter.isdigit() for letter in part):
                raise ValueError(f"{part!r} says no number, and timm would leave it out")
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


def change_alike(change: Callable[[Picture], Picture], clip: Tensor, generator: Generator) -> Tensor:
    """Change every frame of a clip, uint8 (T, C, H, W), as a picture is changed, all by the random numbers of one draw.

    Frames that are equal stay equal; what a change takes from the pixels (equalising, say) it takes of each frame.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    changed = []
    for frame in clip.permute(0, 2, 3, 1).contiguous().numpy():
        with global_generators_seeded(seed):
            changed.append(np.asarray(change(Image.fromarray(frame))))
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)
