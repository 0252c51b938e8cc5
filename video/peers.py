"""Networks timed beside ours: another implementation of the same model, with its weights, and other architectures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.system.errors import UserError
from revit.common.timing.peers import Reference, fixed_at_longest
from revit.video.models.timesformer import TimeSformer
from revit.video.weights.source import to_published


class HuggingFaceTimeSformer(nn.Module):
    """`transformers`' TimeSformer made from ours at its longest grid; takes clips in our layout.

    Its position table has a row for the class token; a FlexiViT's has none, and gets zeros there.

    Raises:
        UserError: transformers is not installed, or the port lacks what the model has: space_only attention (which it does
            not average over frames), frames or patches that are no squares; see also `fixed_at_longest`.
    """

    def __init__(self, model: TimeSformer) -> None:
        super().__init__()
        try:
            from transformers import TimesformerConfig, TimesformerForVideoClassification
        except ImportError:
            raise UserError(
                "transformers is not installed, so there is no peer to time; pip install transformers"
            ) from None
        if model.attention == "space_only":
            raise UserError("Hugging Face's TimeSformer has another space_only attention; nothing to compare with")
        ours = fixed_at_longest(model, "Hugging Face's TimeSformer")
        if len(set(ours.sides)) > 1 or len(set(ours.patch)) > 1:
            raise UserError(
                "Hugging Face's TimeSformer has square frames in square patches, and these are of "
                f"{ours.sides[0]}x{ours.sides[1]} and {ours.patch[0]}x{ours.patch[1]} pixels; nothing to compare with"
            )
        block: Any = model.blocks[0]
        sizes: dict[str, Any] = {
            "image_size": ours.sides[0],
            "patch_size": ours.patch[0],
            "num_channels": ours.tensors["patch_embed.proj.weight"].shape[1],
            "num_frames": model.num_frames,
            "hidden_size": model.embed_dim,
            "num_hidden_layers": len(model.blocks),
            "num_attention_heads": block.attn.num_heads,
            "intermediate_size": block.mlp.fc1.out_features,
            "qkv_bias": block.attn.qkv.bias is not None,
            "layer_norm_eps": model.norm.eps,
            "attention_type": model.attention,
            "hidden_dropout_prob": 0.0,
            "num_labels": model.num_classes,
        }
        if model.is_flexible:
            table = ours.tensors["pos_embed"]
            ours.tensors["pos_embed"] = torch.cat([table.new_zeros(1, 1, table.shape[-1]), table], dim=1)
        self.port = TimesformerForVideoClassification(TimesformerConfig(**sizes)).eval()
        self.port.load_state_dict({name: ours.tensors[_our_name(name)] for name in self.port.state_dict()})
        self.side = ours.sides[0]

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits (B, K) of (B, C, T, H, W)."""
        return self.port(clips[..., : self.side, : self.side].transpose(1, 2)).logits


def _our_name(name: str) -> str:
    return next(iter(to_published({name: torch.empty(0)})))


SLOWER = 4  # frames of SlowFast's fast pathway for each of its slow one


class TwoPathways(nn.Module):
    """SlowFast on one clip: all frames for the fast pathway, every fourth (evenly spread) for the slow one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits (B, K) of (B, C, T, H, W)."""
        T = clips.shape[2]
        slow = torch.linspace(0, T - 1, T // SLOWER).long().tolist()
        return self.network([torch.stack([clips[:, :, frame] for frame in slow], dim=2), clips])


def from_hub(name: str, wrap: Callable[[nn.Module], nn.Module] = lambda network: network) -> nn.Module:
    """Make a network of pytorchvideo's hub with random weights. UserError where pytorchvideo is not installed."""
    try:
        hub: Any = import_module("pytorchvideo.models.hub")
    except ImportError:
        raise UserError("pytorchvideo is not installed; pip install pytorchvideo") from None
    return wrap(getattr(hub, name)(pretrained=False))


PYTORCHVIDEO = (
    Reference("slowfast_r50", partial(from_hub, "slowfast_r50", TwoPathways), (1, 3, 32, 224, 224)),
    Reference("x3d_s", partial(from_hub, "x3d_s"), (1, 3, 13, 160, 160)),
    Reference("x3d_m", partial(from_hub, "x3d_m"), (1, 3, 16, 224, 224)),
    Reference("mvit_base_16x4", partial(from_hub, "mvit_base_16x4"), (1, 3, 16, 224, 224)),
)
