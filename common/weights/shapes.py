"""What names and shapes say about a vision transformer's architecture."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from revit.common.errors import UserError
from revit.common.tokens.grid import TokenGrid
from revit.common.weights.adapt import KERNEL
from revit.common.weights.source import Source


@dataclass
class Known:
    """What lies beside the weights goes before any guess; the guesses are written down."""

    facts: Mapping[str, Any]
    assumed: list[str] = field(default_factory=list)
    """What the weights do not say and was taken from the published recipes."""

    def get(self, key: str, otherwise: Any, text: str) -> Any:
        """The fact, or `otherwise`, which `text` puts in words."""
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
    """num_prefix: rows of the position table that stand for no patch.

    Raises:
        UserError: parts of `what` are missing, or the pictures were not square.
    """
    tensors = source.tensors
    try:
        width, _, *kernel = tensors[KERNEL].shape
        hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
        num_classes = tensors["head.weight"].shape[0]
        num_positions = tensors["pos_embed"].shape[1] - num_prefix
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{source.where}: not a whole {what} with its classifier ({error} is missing)"
        ) from error
    side = math.isqrt(max(0, num_positions))
    if side == 0 or side * side != num_positions or len(set(kernel)) != 1:
        raise UserError(f"{source.where}: {num_positions} positions of {kernel} pixels are no square picture")
    blocks = {int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    return Shapes(
        embed_dim=width,
        depth=len(blocks),
        hidden=hidden,
        qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        num_classes=num_classes,
        grid=TokenGrid(side, side),
        kernel=kernel[0],
    )
