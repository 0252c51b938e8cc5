"""As-ViT as the backbone of a detector: its four maps, in the form that detection libraries take."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from revit.image.models.asvit import EPS, AsViT

STRIDES = (4, 8, 16, 32)
"""Pixels between neighbours of each map."""


class AsViTFeatures(nn.Module):
    """Pictures (B, C, H, W) of any size -> an OrderedDict of maps (B, D, ceil(H / stride), ceil(W / stride)), named "0" to
    "3" as torchvision's feature pyramids expect, finest first.

    `channels` and `strides` hold a number for every map returned. Takes a model over: its final norm and its head, which no
    map passes, are removed (a distributed run would wait for their gradients).

    maps: which of the four.  norms: a new LayerNorm on every map, as backbones of windowed transformers have it; the paper
    does not say.
    """

    def __init__(self, model: AsViT, maps: Sequence[int] = (0, 1, 2, 3), norms: bool = False) -> None:
        super().__init__()
        dims = model.genotype.dims
        if not maps or sorted(set(maps) & set(range(len(dims)))) != list(maps):
            raise ValueError(
                f"maps are {list(maps)}; choose some of 0 to {len(dims) - 1}, in order, each once"
            )
        model.norm = nn.Identity()  # type: ignore[assignment]
        model.head = nn.Identity()
        self.body = model
        self.maps = tuple(maps)
        self.channels = [dims[number] for number in maps]
        self.strides = [STRIDES[number] for number in maps]
        self.norms = nn.ModuleDict(
            {str(number): nn.LayerNorm(dims[number], eps=EPS) for number in maps} if norms else {}
        )

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Return maps by name for pictures (B, C, H, W)."""
        found = self.body.feature_maps(images, self.body.full_grid)
        out: OrderedDict[str, Tensor] = OrderedDict()
        for number in self.maps:
            name = str(number)
            map_ = self.norms[name](found[number]) if name in self.norms else found[number]
            out[name] = map_.permute(0, 3, 1, 2)
        return out
