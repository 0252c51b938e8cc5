"""Other people's implementations of the same model, with the same weights, to be timed beside ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from revit.common.system.errors import UserError
from revit.common.timing.peers import fixed_at_longest
from revit.video.models.timesformer import TimeSformer
from revit.video.weights.hugging_face import to_published


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
            raise UserError(
                "Hugging Face's TimeSformer has another space_only attention; nothing to compare with"
            )
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
        """(B, C, T, H, W) -> logits (B, K)"""
        return self.port(clips[..., : self.side, : self.side].transpose(1, 2)).logits


def _our_name(name: str) -> str:
    return next(iter(to_published({name: torch.empty(0)})))
