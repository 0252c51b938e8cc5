"""Other people's implementations of the same model, with the same weights, to be timed beside ours."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from revit.common.embed.flexi import FlexiPatchify
from revit.common.embed.patch_embed import Patchify
from revit.common.embed.patches import sides_of
from revit.common.errors import UserError
from revit.common.vit import ResizableTransformer
from revit.image.models.deit import DeiT


class TimmDeiT(nn.Module):
    """timm's DeiT made from ours at its longest grid.

    Raises UserError for what timm does not have: LV-ViT, other patch embeddings, and grids that pad the picture.
    """

    def __init__(self, model: ResizableTransformer) -> None:
        super().__init__()
        if not isinstance(model, DeiT) or type(model.patch_embed) is not Patchify:
            raise UserError("timm has no such model or patch embedding; nothing to compare with")
        block: Any = model.blocks[0]
        kernel = model.patch_embed.proj.kernel_size
        distilled = model.num_prefix(model.grids[0]) == 2
        port = (VisionTransformerDistilled if distilled else VisionTransformer)(
            img_size=model.img_size,
            patch_size=(kernel[0], kernel[1]),
            in_chans=model.patch_embed.proj.in_channels,
            num_classes=model.num_classes,
            embed_dim=model.embed_dim,
            depth=len(model.blocks),
            num_heads=block.attn.num_heads,
            mlp_ratio=block.mlp.fc1.out_features / model.embed_dim,
            qkv_bias=block.attn.qkv.bias is not None,
            norm_layer=partial(nn.LayerNorm, eps=model.norm.eps),
        )
        ours, theirs = model.state_dict(), port.state_dict()
        if theirs["pos_embed"].shape != ours["pos_embed"].shape:
            raise UserError(
                f"timm's DeiT has no padding, and {model.grids[0].name} tokens are not whole patches of this picture; "
                "nothing to compare with"
            )
        port.load_state_dict({name: ours[name] for name in theirs})
        self.port = port.eval()

    def forward(self, pictures: Tensor, grid: Any = None) -> Tensor:
        """(B, C, H, W) -> logits (B, K)"""
        return self.port(pictures)


class TimmFlexiViT(nn.Module):
    """timm's FlexiViT (a ViT whose position table has no row for the class token) made from ours at its longest grid.

    timm has one fixed patch size: kernel and positions are resized to it once, where ours are resized in every pass.
    Raises UserError for models that are no FlexiViT.
    """

    def __init__(self, model: ResizableTransformer) -> None:
        super().__init__()
        if not isinstance(model, DeiT) or not isinstance(model.patch_embed, FlexiPatchify):
            raise UserError("timm's flexivit is for FlexiViT models of pictures; nothing to compare with")
        grid, block = model.grids[0], cast(Any, model.blocks[0])
        patch = model.patch_embed.patch_at(sides_of(model.img_size), grid)
        self.sides = (grid.rows * patch[0], grid.cols * patch[1])
        port = VisionTransformer(
            img_size=self.sides,
            patch_size=patch,
            in_chans=model.patch_embed.proj.in_channels,
            num_classes=model.num_classes,
            embed_dim=model.embed_dim,
            depth=len(model.blocks),
            num_heads=block.attn.num_heads,
            mlp_ratio=block.mlp.fc1.out_features / model.embed_dim,
            qkv_bias=block.attn.qkv.bias is not None,
            norm_layer=partial(nn.LayerNorm, eps=model.norm.eps),
            no_embed_class=True,
        )
        ours = model.state_dict()
        ours["patch_embed.proj.weight"] = model.patch_embed.proj.kernel_at(patch).detach()
        ours["pos_embed"] = model.position_table(grid, grid).detach()
        port.load_state_dict({name: ours[name] for name in port.state_dict()})
        self.port = port.eval()

    def forward(self, pictures: Tensor, grid: Any = None) -> Tensor:
        """(B, C, H, W) -> logits (B, K)"""
        return self.port(pictures[..., : self.sides[0], : self.sides[1]])
