"""timm's implementation of the same model with the same weights, to be timed beside ours."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from revit.common.models.base import GridModel
from revit.common.system.errors import UserError
from revit.common.timing.peers import fixed_at_longest
from revit.image.models.transformers import DeiT


class TimmViT(nn.Module):
    """timm's DeiT, distilled DeiT or FlexiViT (whose position table has no row for the class token), made from ours at its
    longest grid.

    Raises:
        UserError: timm has no such model; see also `fixed_at_longest`.
    """

    def __init__(self, model: GridModel) -> None:
        super().__init__()
        if not isinstance(model, DeiT):
            raise UserError(f"timm has no {type(model).__name__}; nothing to compare with")
        ours = fixed_at_longest(model, "timm")
        block: Any = model.blocks[0]
        distilled = model.num_prefix(model.grids[0]) == 2
        port = (VisionTransformerDistilled if distilled else VisionTransformer)(
            img_size=ours.sides,
            patch_size=ours.patch,
            in_chans=ours.tensors["patch_embed.proj.weight"].shape[1],
            num_classes=model.num_classes,
            embed_dim=model.embed_dim,
            depth=len(model.blocks),
            num_heads=block.attn.num_heads,
            mlp_ratio=block.mlp.fc1.out_features / model.embed_dim,
            qkv_bias=block.attn.qkv.bias is not None,
            norm_layer=partial(nn.LayerNorm, eps=model.norm.eps),
            no_embed_class=model.is_flexible,
        )
        port.load_state_dict({name: ours.tensors[name] for name in port.state_dict()})
        self.port = port.eval()
        self.sides = ours.sides

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits (B, K) of pictures (B, C, H, W)."""
        return self.port(pictures[..., : self.sides[0], : self.sides[1]])
