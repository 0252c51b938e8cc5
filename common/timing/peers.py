"""Other people's implementations, to be timed beside ours: with our weights if they agree, or as another architecture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.costs.flops import PRODUCTS, TOLERANCE, fvcore_macs, on_meta, torch_macs
from revit.common.models.base import GridModel
from revit.common.models.embed.patch_embed import FlexiPatchify, Patchify
from revit.common.models.embed.patches import Sides, sides_of
from revit.common.models.vit import ResizableTransformer
from revit.common.system.errors import UserError

LARGEST_DIFFERENCE = 1e-4
"""Of the logits, relative to their largest: float32 sums in another order."""


@dataclass(frozen=True)
class Twin:
    """An implementation of the same model, made from ours and filled with its weights."""

    name: str
    make: Callable[[Any], nn.Module]
    """Raises UserError where there is no such implementation. Takes inputs alone."""


@dataclass(frozen=True)
class Reference:
    """Another architecture, with random weights, at the input size that its builder is made for."""

    name: str
    make: Callable[[], nn.Module]
    """Takes one tensor of `input_shape`. Raises UserError that says what to install."""
    input_shape: tuple[int, ...]
    """Batch 1."""


@dataclass(frozen=True)
class Fixed:
    """A model of ours as a plain vision transformer of one patch size, which other implementations know."""

    tensors: dict[str, Tensor]
    """Published names; of a FlexiViT the position table has no row for the class token."""
    patch: Sides
    sides: Sides
    """Of the pictures, without what a FlexiViT cuts off."""


@torch.no_grad()
def fixed_at_longest(model: GridModel, whose: str) -> Fixed:
    """`model` at its longest grid. A FlexiViT's kernel and positions are resized to it once, where ours are resized in every
    pass.

    Raises:
        UserError: no other implementation has its patch embedding, pads its pictures, or takes tokens away between the
            blocks; the message says `whose` it would be.
    """
    embed = getattr(model, "patch_embed", None)
    if not isinstance(model, ResizableTransformer) or not isinstance(embed, (Patchify, FlexiPatchify)):
        with_embed = f" with {type(embed).__name__} as its patch embedding" if embed is not None else ""
        raise UserError(f"{whose} has no {type(model).__name__}{with_embed}; nothing to compare with")
    grid, reducer = model.grids[0], model.reducer
    if reducer is not None:
        positions = reducer.positions_per_block(grid.num_positions, len(model.blocks))
        if set(positions) != {grid.num_positions}:
            raise UserError(
                f"{whose} takes no tokens away between blocks, as {type(reducer).__name__} does; nothing to compare with"
            )
    tensors, patch, sides = model.state_dict(), embed.patches[grid.name], sides_of(model.img_size)
    whole = (grid.rows * patch[0], grid.cols * patch[1])
    if isinstance(embed, FlexiPatchify):
        tensors["patch_embed.proj.weight"] = embed.proj.kernel_at(patch)
        tensors["pos_embed"] = model.position_table(grid, grid)
    elif whole != sides:
        raise UserError(
            f"{whose} has no padding, and {grid.name} tokens are not whole patches of {sides[0]}x{sides[1]} pixels; nothing "
            "to compare with"
        )
    return Fixed(tensors, patch, whole)


@torch.no_grad()
def fill_zeros(model: nn.Module) -> None:
    """Fills parameters that are all zero with noise, always the same: what they multiply would take no part in a comparison."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def checked_twin(make_twin: Callable[[Any], nn.Module], model: GridModel, inputs: Tensor) -> nn.Module:
    """The other implementation with our weights, after both gave the same logits for `inputs` (float32, on the CPU).

    Parameters that start at zero are filled with noise first, in `model` too (`fill_zeros`).

    Raises:
        UserError: as `make_twin`, where there is no such implementation.
        RuntimeError: the two differ, so timing them against each other would mean nothing.
    """
    fill_zeros(model)
    twin = make_twin(model).eval()
    training = model.training
    ours, theirs = model.eval()(inputs).prediction, twin(inputs)
    model.train(training)
    difference = float((ours - theirs).abs().max() / ours.abs().max())
    if difference > LARGEST_DIFFERENCE:
        raise RuntimeError(
            f"{type(twin).__name__}: its logits differ from ours by {difference:.2g} of the largest "
            f"(limit {LARGEST_DIFFERENCE:g})"
        )
    return twin


def foreign_gmacs(model: nn.Module, input_shape: Sequence[int]) -> float | None:
    """GMACs of a model that has no closed formula here: its matrix products and convolutions, by fvcore and by torch; None
    where the two disagree or cannot count.

    Norms are left out, unlike in the counts of our own models, because the papers of pytorchvideo's networks leave them out
    (SlowFast, X3D, MViT: the counts then are the published ones within 0.3 %).
    """
    try:
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copied = on_meta(model).float().eval()
            inputs = (torch.empty(tuple(input_shape), device="meta"),)
            traced, unknown = fvcore_macs(copied, inputs)
            by_torch = sum(torch_macs(copied, inputs).values())
    except Exception:  # whatever tracing makes of foreign code: an unknown cost is no reason not to time it
        return None
    products = sum(traced.get(kind, 0.0) for kind in PRODUCTS)
    if unknown or abs(products - by_torch) > TOLERANCE * by_torch:
        return None
    return products / 1e9
