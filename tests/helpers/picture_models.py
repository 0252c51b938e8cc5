"""What tests of picture models share: weights away from their start, and one grid's parameters as a plain model's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from revit.common.models.grid import TokenGrid
from revit.common.models.vit import ResizableTransformer

SMALL = {"img_size": 64, "num_classes": 5, "embed_dim": 32, "depth": 2, "num_heads": 4}


def randomise(model: nn.Module) -> nn.Module:
    """Weights that leave no part of the model at zero or one; in evaluation mode."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer))
    return model.eval()


def pictures(height: int = 64, width: int = 64, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width)


def as_plain(model: ResizableTransformer, grid: TokenGrid) -> dict[str, Tensor]:
    """Everything that `model` uses at `grid`, under the names of a plain model of that grid alone.

    A student's distillation token and head get the names of the published distilled variant.
    """
    state = model.state_dict()
    longest = grid == model.grids[0]
    plain = {name: tensor for name, tensor in state.items() if "short" not in name and "dist" not in name}
    if not longest:
        plain |= {
            name.replace(".shared", ""): tensor
            for name, tensor in state.items()
            if name.startswith(("dist_token", "head_dist"))
        }
        plain["pos_embed"] = state[f"short_pos_embed.{grid.name}"]
        for name, tensor in state.items():
            before, found, part = name.partition(f"short.{grid.name}.")
            if found:
                # A patchify's short kernel stands for the long one's `proj`; stems and norms bring whole names.
                is_kernel = before == "patch_embed." and part in ("weight", "bias")
                plain[before + ("proj." if is_kernel else "") + part] = tensor
    others = [f"patch_embed.stems.{other.name}." for other in model.grids if other != grid]
    return {name: tensor for name, tensor in plain.items() if not name.startswith(tuple(others))}
