"""Augmentation of whole batches on the device: random erasing, then mixup or cutmix, both timm's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from timm.data import Mixup
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from revit.common.data.batch import Batch
from revit.image.data.options import AugmentOptions, MixOptions


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
