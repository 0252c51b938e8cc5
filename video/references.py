"""pytorchvideo's networks for clips, to be timed beside ours: other architectures, each with its own input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.system.errors import UserError
from revit.common.timing.peers import Reference

SLOWER = 4
"""Frames of SlowFast's fast pathway for each of its slow one."""


class TwoPathways(nn.Module):
    """SlowFast on one clip: all frames for the fast pathway, every fourth (evenly spread) for the slow one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, K)"""
        T = clips.shape[2]
        slow = torch.linspace(0, T - 1, T // SLOWER).long().tolist()
        return self.network([torch.stack([clips[:, :, frame] for frame in slow], dim=2), clips])


def from_hub(name: str, wrap: Callable[[nn.Module], nn.Module] | None = None) -> nn.Module:
    """A network of pytorchvideo's hub with random weights. UserError where pytorchvideo is not installed."""
    try:
        hub: Any = import_module("pytorchvideo.models.hub")
    except ImportError:
        raise UserError("pytorchvideo is not installed; pip install pytorchvideo") from None
    network = getattr(hub, name)(pretrained=False)
    return network if wrap is None else wrap(network)


PYTORCHVIDEO = (
    Reference("slowfast_r50", partial(from_hub, "slowfast_r50", TwoPathways), (1, 3, 32, 224, 224)),
    Reference("x3d_s", partial(from_hub, "x3d_s"), (1, 3, 13, 160, 160)),
    Reference("x3d_m", partial(from_hub, "x3d_m"), (1, 3, 16, 224, 224)),
    Reference("mvit_base_16x4", partial(from_hub, "mvit_base_16x4"), (1, 3, 16, 224, 224)),
)
