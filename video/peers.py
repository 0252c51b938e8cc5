"""Other people's implementations of the same model, with the same weights, to be timed beside ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from revit.common.errors import UserError
from revit.video.models.timesformer import TimeSformer
from revit.video.weights.hugging_face import to_published


class HuggingFaceTimeSformer(nn.Module):
    """`transformers`' TimeSformer made from ours at its longest grid; takes clips in our layout.

    Raises:
        UserError: transformers is not installed, or the model has options the port lacks (the early-convolution stem;
            space_only, which the port does not average over frames).
    """

    def __init__(self, model: TimeSformer) -> None:
        super().__init__()
        try:
            from transformers import TimesformerConfig, TimesformerForVideoClassification
        except ImportError:
            raise UserError(
                "transformers is not installed, so there is no peer to time; pip install transformers"
            ) from None
        proj = getattr(model.patch_embed, "proj", None)
        if proj is None or model.attention == "space_only":
            raise UserError(
                "Hugging Face's TimeSformer has no such patch embedding or attention; nothing to compare with"
            )
        block: Any = model.blocks[0]
        sizes: dict[str, Any] = {
            "image_size": model.img_size,
            "patch_size": proj.kernel_size[0],
            "num_channels": proj.in_channels,
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
        config = TimesformerConfig(**sizes)
        self.port = TimesformerForVideoClassification(config).eval()
        ours = model.state_dict()
        self.port.load_state_dict({name: ours[_our_name(name)] for name in self.port.state_dict()})

    def forward(self, clips: Tensor, grid: Any = None) -> Tensor:
        """(B, C, T, H, W) -> logits (B, K)"""
        return self.port(clips.transpose(1, 2)).logits


def _our_name(name: str) -> str:
    return next(iter(to_published({name: torch.empty(0)})))
