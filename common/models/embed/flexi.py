"""FlexiViT's patch embedding: one kernel for patches of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from revit.common.models.embed.patches import PatchEmbed, Remainder, Sides, sides_of
from revit.common.models.embed.resize import resize_patch_kernel
from revit.common.models.grid import TokenGrid


class ResizedConv2d(nn.Conv2d):
    """Convolution over patches that do not overlap, by a kernel that is resized to the patch in every forward pass."""

    def forward(self, images: Tensor, patch: Sides) -> Tensor:  # type: ignore[override]
        """(B, C, rows * h, cols * w) in patches of (h, w) pixels -> (B, D, rows, cols)"""
        return F.conv2d(images, self.kernel_at(patch), self.bias, stride=patch)

    def kernel_at(self, patch: Sides) -> Tensor:
        """(D, C, *patch). Gradients reach the stored kernel.

        Not part of a model's published cost: it is one small product per pass, whatever the batch, and none at a size
        that is fixed beforehand. So where only shapes are asked for, by the counters of operations, there is none.
        """
        if self.weight.is_meta:
            return self.weight.new_empty((*self.weight.shape[:2], *patch))
        return resize_patch_kernel(self.weight, patch)


class FlexiPatchify(PatchEmbed):
    """One underlying kernel, pseudo-inverse resized to the patch of whatever grid is asked for (FlexiViT section 3.4).

    The patch is floor(picture / grid) pixels, and what is over at the right and lower border is cut off (published:
    "valid"), so that the map is the grid itself, at every size of picture. Where more than a patch is over (10 x 10 at
    48 pixels) the published code would give a larger map (12 x 12) instead of cutting. `proj` has the published name.

    Raises ValueError for a grid with more tokens than the picture has pixels.
    """

    remainder: Remainder = "cut"

    def __init__(
        self,
        img_size: int | Sides,
        grids: Sequence[TokenGrid],
        width: int,
        in_chans: int = 3,
        kernel_size: int | Sides = 32,
    ) -> None:
        super().__init__()
        sides = sides_of(img_size)
        self.patches = {grid.name: self.patch_at(sides, grid) for grid in grids}
        kernel = sides_of(kernel_size)
        self.proj = ResizedConv2d(in_chans, width, kernel_size=kernel, stride=kernel)

    def patch_at(self, sides: Sides, grid: TokenGrid) -> Sides:
        """At any grid. ValueError where it has more tokens than the picture has pixels."""
        height, width = (int(side) for side in sides)
        if grid.rows > height or grid.cols > width:
            raise ValueError(f"a picture of {height}x{width} pixels cannot be cut into {grid} patches")
        return height // grid.rows, width // grid.cols

    def map_of(self, sides: Sides, grid: TokenGrid) -> TokenGrid:
        """The grid itself."""
        return grid

    def forward(self, images: Tensor, grid: TokenGrid) -> Tensor:
        """(B, C, H, W) -> (B, D, rows, cols)"""
        patch = self.patch_at((images.shape[-2], images.shape[-1]), grid)
        return self.proj(images[..., : grid.rows * patch[0], : grid.cols * patch[1]], patch)
