"""Augmentation of whole batches on the device: random erasing, then mixup or cutmix, all timm's, for pictures and clips."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from revit.common.data.augment.options import AugmentOptions, MixOptions
from revit.common.data.batch import Batch


@dataclass(frozen=True)
class ErasedAndMixed:
    """Changes a batch of normalised pictures (B, C, H, W), or clips (B, C, T, H, W) with all their frames alike.

    Where samples are mixed, targets become float (B, K): sample i is mixed with sample B-1-i (timm), and its target with
    that one's by the same shares. They are not smoothed: smoothing is the loss's, and as mixing is linear it comes to the
    same.

    Random numbers come from the global generators of Python (erasing), numpy (mixing) and torch (noise that replaces
    pixels).
    """

    erase: RandomErasing | None
    mix: Mixup | None
    num_classes: int

    def __call__(self, inputs: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        if self.erase is not None:
            inputs = self._erased(inputs, self.erase)
        if self.mix is None:
            return inputs, batch
        targets = batch.targets
        if targets.ndim == 1:
            targets = F.one_hot(targets, self.num_classes)
        # timm mixes even batches only; the last of an odd one (a broken file left out) stays as it is.
        even = len(inputs) // 2 * 2
        if even == 0:
            return inputs, replace(batch, targets=targets.float())
        mixed, shares = self._mixed(inputs[:even], self.mix)
        own, partners = targets[:even].float(), targets[:even].float().flip(0)
        soft = own * shares.diagonal()[:, None] + partners * shares.flip(1).diagonal()[:, None]
        return (torch.cat([mixed, inputs[even:]]), replace(batch, targets=torch.cat([soft, targets[even:].float()])))

    @staticmethod
    def _erased(inputs: Tensor, erase: RandomErasing) -> Tensor:
        """Fill rectangles of an empty picture for each sample, and lay it over all of its frames."""
        erase.device = inputs.device  # timm wants it earlier than it is known
        first = inputs if inputs.ndim == 4 else inputs[:, :, 0]
        filling = erase(torch.full_like(first, math.nan))
        filling = filling.view(len(inputs), inputs.shape[1], *[1] * (inputs.ndim - 4), *inputs.shape[-2:])
        return torch.where(filling.isnan(), inputs, filling)

    @staticmethod
    def _mixed(inputs: Tensor, mix: Mixup) -> tuple[Tensor, Tensor]:
        """Return the mixed samples, and the share (B, B) that each has of every sample."""
        # timm's pictures may have any number of channels: those of all frames in a row are one share and one rectangle.
        folded = inputs.flatten(1, -3).clone()
        mix.num_classes = len(inputs)  # classes are samples here, so that the targets it makes are the shares
        mixed, shares = mix(folded, torch.arange(len(inputs), device=inputs.device))
        return mixed.view_as(inputs), shares


def build_batch_augment(augment: AugmentOptions, mix: MixOptions, num_classes: int) -> ErasedAndMixed | None:
    """Build the augmentation that the options ask for, of samples of `num_classes` classes; None for nothing."""
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
        )
    return ErasedAndMixed(erase, mixer, num_classes) if erase or mixer else None
