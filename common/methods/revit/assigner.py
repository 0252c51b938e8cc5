"""The Token-Length Assigner: a small network that looks at an input and names the token grid to use."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

# EfficientNet-B0 in timm's notation: r repeats, k kernel, s stride, e expansion, c channels, se squeeze ratio.
EFFICIENTNET_B0 = (
    ("ds_r1_k3_s1_e1_c16_se0.25",),
    ("ir_r2_k3_s2_e6_c24_se0.25",),
    ("ir_r2_k5_s2_e6_c40_se0.25",),
    ("ir_r3_k3_s2_e6_c80_se0.25",),
    ("ir_r3_k5_s1_e6_c112_se0.25",),
    ("ir_r4_k5_s2_e6_c192_se0.25",),
    ("ir_r1_k3_s1_e6_c320_se0.25",),
)


class TokenLengthAssigner(nn.Module):
    """Shrunk EfficientNet-B0 that predicts the smallest sufficient token grid (ReViT sections 3.1 and 4).

    The paper's appendix with its details is not public. Reading: width and depth 0.5 at 112 pixels (0.021 GMACs a
    frame, 0.66 M parameters with three grids). A clip shows `num_frames` frames, each the middle of its share of the
    clip (one frame: the middle one), whose logits are averaged.
    """

    def __init__(
        self,
        num_grids: int,
        size: int = 112,
        num_frames: int = 1,
        width: float = 0.5,
        depth: float = 0.5,
        in_chans: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.size = size
        self.num_frames = num_frames
        self.net = EfficientNet(
            block_args=decode_arch_def([list(stage) for stage in EFFICIENTNET_B0], depth_multiplier=depth),
            num_classes=num_grids,
            num_features=round_channels(1280, width),
            stem_size=32,
            in_chans=in_chans,
            round_chs_fn=partial(round_channels, multiplier=width),
            act_layer=nn.SiLU,
            drop_rate=dropout,
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Score normalised pictures (B, C, H, W) or clips (B, C, T, H, W) -> logits (B, number of grids), longest first."""
        if inputs.ndim == 4:
            return self.net(self._shrink(inputs))
        B, _, T = inputs.shape[:3]
        share = T / self.num_frames
        moments = torch.tensor([int((index + 0.5) * share) for index in range(self.num_frames)], device=inputs.device)
        frames = inputs.index_select(2, moments).transpose(1, 2).flatten(0, 1)  # (B * frames, C, H, W)
        return self.net(self._shrink(frames)).unflatten(0, (B, self.num_frames)).mean(dim=1)

    def _shrink(self, images: Tensor) -> Tensor:
        if images.shape[-2:] == (self.size, self.size):
            return images
        # In float32: the smoothing kernel does not exist for bfloat16 on a CPU.
        small = F.interpolate(
            images.float(), size=(self.size, self.size), mode="bilinear", align_corners=False, antialias=True
        )
        return small.to(images.dtype)
