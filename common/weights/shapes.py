"""What names and shapes say about a vision transformer's architecture."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from revit.common.models.grid import TokenGrid
from revit.common.system.errors import UserError
from revit.common.weights.adapt import KERNEL, TABLE
from revit.common.weights.source import Source


@dataclass
class Known:
    """Facts beside the weights, which go before any guess; the guesses are written down."""

    facts: Mapping[str, Any]
    assumed: list[str] = field(default_factory=list)
    """Guesses from the published recipes, in words."""

    def get(self, key: str, otherwise: Any, text: str) -> Any:
        """Return the fact, or `otherwise`, which `text` puts in words."""
        if key in self.facts:
            return self.facts[key]
        self.assumed.append(text)
        return otherwise


@dataclass(frozen=True)
class Shapes:
    """A plain transformer on square pictures."""

    embed_dim: int
    depth: int
    hidden: int
    """Width inside the MLP."""
    qkv_bias: bool
    num_classes: int
    grid: TokenGrid
    kernel: int
    """Side of the patch embedding's last kernel."""

    @property
    def mlp_ratio(self) -> float:
        return self.hidden / self.embed_dim


def read_shapes(source: Source, what: str, num_prefix: int = 1) -> Shapes:
    """Read the architecture of `what`, whose position table has `num_prefix` rows that stand for no patch.

    Raise UserError: parts are missing or of another form, or the pictures were not square.
    """
    width, _, *kernel = shape_of(source, what, KERNEL, (None,) * 4)
    hidden, _ = shape_of(source, what, "blocks.0.mlp.fc1.weight", (None, width))
    num_classes, _ = shape_of(source, what, "head.weight", (None, width))
    num_positions = shape_of(source, what, TABLE, (1, None, width))[1] - num_prefix
    side = math.isqrt(max(0, num_positions))
    if side == 0 or side * side != num_positions or len(set(kernel)) != 1:
        raise UserError(f"{source.where}: {num_positions} positions of {kernel} pixels are no square picture")
    blocks = {int(match[1]) for name in source.tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    qkv_bias = "blocks.0.attn.qkv.bias" in source.tensors
    return Shapes(width, len(blocks), hidden, qkv_bias, num_classes, TokenGrid(side, side), kernel[0])


def shape_of(source: Source, what: str, name: str, wanted: Sequence[int | None]) -> tuple[int, ...]:
    """Return the shape of a tensor that every `what` has. wanted: its sizes, None for any but 0.

    Raise UserError: the tensor is missing, or its shape is another.
    """
    tensor = source.tensors.get(name)
    if tensor is None:
        raise UserError(f"{source.where}: not a whole {what} with its classifier ({name} is missing)")
    shape = tuple(tensor.shape)
    if len(shape) != len(wanted) or 0 in shape or any(b not in (None, a) for a, b in zip(shape, wanted)):
        form = " x ".join("any" if must is None else str(must) for must in wanted)
        raise UserError(f"{source.where}: its {name} has shape {shape}, where a {what} has {form}")
    return shape


def heads_of(source: Source, known: Known, embed_dim: int, otherwise: int | None = None) -> int:
    """Return the count of attention heads: as written beside the weights, `otherwise`, or heads 64 wide.

    Raise UserError: so many cannot share the width.
    """
    text = "heads 64 wide" if otherwise is None else f"{otherwise} heads"
    heads = known.get("num_heads", otherwise or max(1, embed_dim // 64), text)
    if embed_dim % heads:
        written = "written beside it" if "num_heads" in source.facts else f"a guess ({text})"
        raise UserError(
            f"{source.where}: its width of {embed_dim} is no multiple of its {heads} heads, which are {written}; use it with "
            "a configuration that sets model.num_heads, as tools/test_net.py does"
        )
    return int(heads)
