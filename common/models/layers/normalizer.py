"""From stored bytes to the numbers a network wants, on the device where it runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalizer(nn.Module):
    """(pixel / 255 - mean) / std per channel, for pictures (B, C, H, W) and clips (B, C, T, H, W).

    Bytes travel to the device and become floats there: a quarter of the traffic of normalising in the loader.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(std)), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean) / torch.tensor(std), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 (B, C, ...) to float (B, C, ...)."""
        per_channel = (1, -1, *[1] * (pixels.ndim - 2))
        return torch.addcmul(self.shift.view(per_channel), pixels.to(self.scale.dtype), self.scale.view(per_channel))

    def undo(self, inputs: Tensor) -> Tensor:
        """Turn normalised (B, C, ...) back to uint8, cut to what bytes hold."""
        per_channel = (1, -1, *[1] * (inputs.ndim - 2))
        pixels = (inputs.float() - self.shift.view(per_channel)) / self.scale.view(per_channel)
        return pixels.round().clamp(0, 255).to(torch.uint8)
