"""Patch embedding for several token grids: every grid turns the same picture into its own number of tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit.common.models.embed.patches import (
    PatchEmbed,
    Remainder,
    ReTokenizing,
    Sides,
    pad_to_patches,
    patch_of,
    resize_patch_kernel,
    sides_of,
    strided_convolution,
)
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


class Patchify(PatchEmbed, ReTokenizing):
    """One convolution per grid whose stride is its kernel (Table 3 of ReViT, the row with its own patch embedding).

    `proj` belongs to the longest grid and has the published name; the others are `short.ROWSxCOLS`. `remainder`
    "cut" drops pixels at the right and lower border that fill no patch, as published.
    """

    def __init__(
        self,
        img_size: int | Sides,
        grids: Sequence[TokenGrid],
        width: int,
        in_chans: int = 3,
        remainder: Remainder = "pad",
    ) -> None:
        super().__init__()
        self.remainder = remainder
        self.patches = {grid.name: patch_of(img_size, grid) for grid in grids}

        self.proj, *short = (nn.Conv2d(in_chans, width, patch, patch) for patch in self.patches.values())
        self.short = nn.ModuleDict({grid.name: conv for grid, conv in zip(grids[1:], short)})

    def forward(self, images: Tensor, grid: TokenGrid) -> Tensor:
        """Embed pictures, (B, C, H, W) -> (B, D, rows, cols)."""
        conv = self.short[grid.name] if grid.name in self.short else self.proj  # noqa: SIM401 (no `get`)
        if self.times > 1:
            assert isinstance(conv, nn.Conv2d)
            return strided_convolution(images, conv, self.times)
        return conv(images if self.remainder == "cut" else pad_to_patches(images, self.patches[grid.name]))

    def map_of(self, sides: Sides, grid: TokenGrid) -> TokenGrid:
        if self.times == 1:
            return super().map_of(sides, grid)
        rows, cols = (-(-side // (self.times * patch)) for side, patch in zip(sides, self.patches[grid.name]))
        return TokenGrid(rows, cols)

    @torch.no_grad()
    def start_short_grids(self) -> None:
        """Start the other grids' kernels from the longest one's by pseudo-inverse resizing; biases are copied."""
        for name, conv in self.short.items():
            kernel = resize_patch_kernel(self.proj.weight, self.patches[name])
            conv.load_state_dict({**self.proj.state_dict(), "weight": kernel})


class SharedPatchify(PatchEmbed):
    """One kernel for all grids, cropped around its centre for the smaller patches (ReViT section 4.1, ablation).

    The stored kernel is that of the largest patch, i.e. of the shortest grid; the text cites the weight-sharing
    kernels of once-for-all networks. It costs about 14 points in the paper's Table 3.
    """

    def __init__(self, img_size: int | Sides, grids: Sequence[TokenGrid], width: int, in_chans: int = 3) -> None:
        super().__init__()
        self.patches = {grid.name: patch_of(img_size, grid) for grid in grids}
        heights, widths = zip(*self.patches.values())
        largest = (max(heights), max(widths))
        self.proj = nn.Conv2d(in_chans, width, kernel_size=largest, stride=largest)

    def forward(self, images: Tensor, grid: TokenGrid) -> Tensor:
        """Embed pictures, (B, C, H, W) -> (B, D, rows, cols)."""
        patch = self.patches[grid.name]
        top, left = ((full - side) // 2 for full, side in zip(self.proj.weight.shape[-2:], patch))
        kernel = self.proj.weight[:, :, top : top + patch[0], left : left + patch[1]]
        return F.conv2d(pad_to_patches(images, patch), kernel, self.proj.bias, stride=patch)


class ConvStem(PatchEmbed):
    """Early convolutions per grid (Xiao et al., cited by ReViT section 4): 3x3 convolutions + BN + ReLU, then 1x1.

    All but the last convolution halve the map; the stride of the last (2, 3, 4) makes the grid: 14, 10 and 7 at 224 pixels
    with three halvings. By default light widths pay for it, and no transformer block is dropped (Xiao et al. drop one). One
    stem, and so one set of BN statistics, per grid; every frame of a clip counts as one picture in them.
    """

    def __init__(
        self,
        img_size: int | Sides,
        grids: Sequence[TokenGrid],
        width: int,
        in_chans: int = 3,
        stem_widths: Sequence[int] = (24, 48, 96, 192),
    ) -> None:
        super().__init__()
        halvings = len(stem_widths) - 1
        self.patches = {grid.name: patch_of(img_size, grid) for grid in grids}
        self.stems = nn.ModuleDict()
        for name, patch in self.patches.items():
            last = [side / 2**halvings for side in patch]
            if any(stride not in (1, 2, 3, 4) for stride in last):
                raise ValueError(
                    f"grid {name} has patches of {patch[0]}x{patch[1]} pixels: {halvings} halvings leave a last stride "
                    f"of {max(last):g}, which should be 1, 2, 3 or 4; give stem_widths another number of entries, or "
                    f"choose a grid that {img_size} pixels reach with such a stride"
                )
            strides = [*[(2, 2)] * halvings, (int(last[0]), int(last[1]))]
            widths = [in_chans, *stem_widths]
            layers: list[nn.Module] = []
            for before, after, stride in zip(widths, widths[1:], strides):
                conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(after), nn.ReLU()]
            self.stems[name] = nn.Sequential(*layers, nn.Conv2d(widths[-1], width, 1))

    def forward(self, images: Tensor, grid: TokenGrid) -> Tensor:
        """Embed pictures, (B, C, H, W) -> (B, D, rows, cols)."""
        # The last convolution pads by one pixel of its own, so a remainder needs no padding of the picture.
        tokens = self.stems[grid.name](images)
        expected = self.map_of((images.shape[-2], images.shape[-1]), grid)
        return tokens[..., : expected.rows, : expected.cols]

    def origin(self, sides: Sides, grid: TokenGrid) -> Sides:
        return (0, 0)  # what fills no patch lies at the right and lower border


class ResizedConv2d(nn.Conv2d):
    """Convolution over patches that do not overlap, by a kernel that is resized to the patch in every forward pass."""

    def forward(self, images: Tensor, patch: Sides) -> Tensor:  # type: ignore[override]
        """Convolve (B, C, rows * h, cols * w) in patches of (h, w) pixels -> (B, D, rows, cols)."""
        return F.conv2d(images, self.kernel_at(patch), self.bias, stride=patch)

    def kernel_at(self, patch: Sides) -> Tensor:
        """Return the kernel (D, C, *patch); gradients reach the stored one."""
        # Not part of a published cost: one small product per pass, whatever the batch, and none at a fixed size. So
        # where only shapes are asked for, by the counters of operations, there is none.
        if self.weight.is_meta:
            return self.weight.new_empty((*self.weight.shape[:2], *patch))
        return resize_patch_kernel(self.weight, patch)


class FlexiPatchify(PatchEmbed):
    """One underlying kernel, pseudo-inverse resized to the patch of whatever grid is asked for (FlexiViT section 3.4).

    The patch is floor(picture / grid) pixels, and what is over at the right and lower border is cut off, so that the map is
    the grid itself at every size of picture. Where more than a patch is over (10 x 10 at 48 pixels) the published code would
    give a larger map (12 x 12). Raises ValueError for a grid with more tokens than the picture has pixels.
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
        self.sides = sides_of(img_size)
        self.patches = {grid.name: self.patch_at(self.sides, grid) for grid in grids}
        kernel = sides_of(kernel_size)
        self.proj = ResizedConv2d(in_chans, width, kernel_size=kernel, stride=kernel)

    def check_grid(self, grid: TokenGrid) -> None:
        height, width = self.sides
        if grid.rows > height or grid.cols > width:
            raise KeyError(f"grid {grid} has more tokens than the {height}x{width} pixels of a picture")

    def patch_at(self, sides: Sides, grid: TokenGrid) -> Sides:
        height, width = (int(side) for side in sides)
        if grid.rows > height or grid.cols > width:
            raise ValueError(f"a picture of {height}x{width} pixels cannot be cut into {grid} patches")
        return height // grid.rows, width // grid.cols

    def map_of(self, sides: Sides, grid: TokenGrid) -> TokenGrid:
        return grid

    def forward(self, images: Tensor, grid: TokenGrid) -> Tensor:
        """Embed pictures, (B, C, H, W) -> (B, D, rows, cols)."""
        patch = self.patch_at((images.shape[-2], images.shape[-1]), grid)
        return self.proj(images[..., : grid.rows * patch[0], : grid.cols * patch[1]], patch)


PATCH_EMBEDS: Mapping[str, type[Patchify | SharedPatchify | ConvStem | LVViTStem | FlexiPatchify]] = {
    "patchify": Patchify,
    "shared": SharedPatchify,
    "stem": ConvStem,
    "lvvit": LVViTStem,
    "flexi": FlexiPatchify,
}
