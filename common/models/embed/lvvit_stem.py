"""LV-ViT's convolution stem for several token grids."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from revit.common.models.embed.patches import PatchEmbed, Remainder, Sides, pad_to_patches, patch_of, sides_of
from revit.common.models.embed.resize import resize_patch_kernel
from revit.common.models.grid import TokenGrid


class LVViTStem(PatchEmbed):
    """The stem of "All Tokens Matter": 7x7 of stride 2, two 3x3, each with BN and ReLU, then patches of the half map.

    The kernel of the last convolution is its stride, half a patch: 8 for 14x14 at 224 pixels, 16 for 7x7. For a grid
    that does not divide the half map, that map is padded with zeros (10x10: 12, with 4 on every side of 112 x 112).

    ReViT does not say how the stem follows the token length. Reading: a whole stem, and so BN statistics, for each grid, in
    which only the last convolution differs. The longest grid's has the published names, the others are stems of one grid
    under `short.ROWSxCOLS`. Raises ValueError for a grid that the half map cannot be cut into.
    """

    def __init__(
        self,
        img_size: int | Sides,
        grids: Sequence[TokenGrid],
        width: int,
        in_chans: int = 3,
        stem_widths: Sequence[int] = (64, 64, 64),
        remainder: Remainder = "pad",
    ) -> None:
        super().__init__()
        if len(stem_widths) != 3:
            raise ValueError(
                f"LV-ViT's stem has three convolutions before the last, stem_widths has {len(stem_widths)} entries; "
                "give three, such as 64, 64, 64"
            )
        height, breadth = (math.ceil(side / 2) for side in sides_of(img_size))
        try:
            self.kernel = patch_of((height, breadth), grids[0])
        except ValueError as error:
            raise ValueError(f"LV-ViT's stem halves the picture first; of its map, {error}") from error
        self.remainder = remainder
        first, second, third = stem_widths
        self.conv1 = nn.Conv2d(in_chans, first, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(third)
        self.proj = nn.Conv2d(third, width, self.kernel, stride=self.kernel)
        self.patches = {grids[0].name: (2 * self.kernel[0], 2 * self.kernel[1])}
        self.short = nn.ModuleDict()
        for grid in grids[1:]:
            stem = LVViTStem(img_size, [grid], width, in_chans, stem_widths, remainder)
            self.short[grid.name] = stem
            self.patches.update(stem.patches)

    def stem_of(self, grid: TokenGrid) -> LVViTStem:
        """Return the stem of one grid: this module itself for the longest."""
        stem = self.short[grid.name] if grid.name in self.short else self  # noqa: SIM401 (no `get`)
        assert isinstance(stem, LVViTStem)
        return stem

    def forward(self, images: Tensor, grid: TokenGrid) -> Tensor:
        """Embed pictures, (B, C, H, W) -> (B, D, rows, cols)."""
        if grid.name in self.short:
            return self.stem_of(grid)(images, grid)
        half = self.bn1(self.conv1(images)).relu()  # (B, 64, H / 2, W / 2)
        half = self.bn2(self.conv2(half)).relu()
        half = self.bn3(self.conv3(half)).relu()
        return self.proj(half if self.remainder == "cut" else pad_to_patches(half, self.kernel))

    def map_of(self, sides: Sides, grid: TokenGrid) -> TokenGrid:
        # An odd side rounds up when it is halved, before anything is cut off.
        return super().map_of((sides[0] + sides[0] % 2, sides[1] + sides[1] % 2), grid)

    def origin(self, sides: Sides, grid: TokenGrid) -> Sides:
        # As for patches of the half map, which is what is padded.
        if self.remainder == "cut":
            return (0, 0)
        kernel = self.stem_of(grid).kernel
        top, left = (-math.ceil(size / 2) % side // 2 for size, side in zip(sides, kernel))
        return (2 * top, 2 * left)

    @torch.no_grad()
    def start_short_grids(self) -> None:
        """Copy convolutions and BN of the longest grid's stem; its last kernel by pseudo-inverse resizing."""
        own = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("short.")}
        for name in self.short:
            stem = self.stem_of(TokenGrid.parse(name))
            kernel = resize_patch_kernel(self.proj.weight, stem.kernel)
            stem.load_state_dict({**own, "proj.weight": kernel})
