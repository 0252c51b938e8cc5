"""Putting weights of one size into a model of another, with an account of every tensor."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from revit.common.models.embed.patch_embed import ConvStem
from revit.common.models.grid import TokenGrid
from revit.common.models.load_report import Change, LoadReport
from revit.common.models.vit import ResizableTransformer
from revit.common.weights.adapt import take_patch_kernels, take_positions
from revit.common.weights.distillation import take_distillation
from revit.common.weights.heads import take_heads

# What belongs to shorter grids only and can start from the longest grid's parts.
SHORT = re.compile(
    r"(^|\.)short\.|^short_pos_embed\.|^dist_token\.|^head_dist\..+\.|^dist_pos_embed$|^patch_embed\.stems\."
)


@torch.no_grad()
def fit(
    model: ResizableTransformer,
    source: Mapping[str, Tensor],
    report: LoadReport,
    position_resize: str = "bicubic",
    source_grids: Sequence[TokenGrid] = (),
    label_names: Sequence[str] = (),
    accounted: Collection[str] = (),
    position_grid: TokenGrid | None = None,
) -> LoadReport:
    """Loads `source`, under the published names of this project's models, into `model` and fills `report`.

    Position tables and patch kernels of another size are resized, a head of another class count (or other classes:
    `label_names` against `report.label_names`) is made anew with all others, classes in another order are put in the
    model's, a DeiT distillation token goes to the shorter grids, and what the shorter grids still lack starts from the
    longest one. `source_grids`: the source's, longest first, where they are known; otherwise tables are taken to be square.
    `accounted` names tensors of `source` that `report` already speaks of. `position_grid`: of a FlexiViT's one table.

    Raises:
        UserError: anything missing, unexpected or of a wrong shape; the model is then unchanged.
    """
    own = model.state_dict()
    source = dict(source)
    ready: dict[str, Tensor] = {}

    new_heads = take_heads(source, own, report, tuple(label_names))
    num_prefix = take_distillation(source, own, ready, report)
    take_positions(
        model, source, own, ready, report, position_resize, source_grids, num_prefix, position_grid
    )
    take_patch_kernels(model, source, own, ready, report)

    for name, tensor in source.items():
        if name in ready:
            continue
        if name not in own:
            if SHORT.search(name):
                report.leave_out("a token grid or a head that this model does not have", [name])
            else:
                report.unexpected.append(name)
        elif name in new_heads:
            continue
        elif tensor.shape == own[name].shape:
            ready[name] = tensor
            if name not in accounted:
                report.loaded.append(name)
        elif SHORT.search(name):
            report.leave_out("a shorter grid's part of another size", [name])
        else:
            report.misfits.append(Change(name, tuple(tensor.shape), tuple(own[name].shape), "no rule"))
    tried = {change.name for change in report.misfits}
    report.missing += [
        name
        for name in own
        if name not in ready and name not in new_heads and name not in tried and not SHORT.search(name)
    ]
    report.check()
    _put(model, own, ready, new_heads, report)
    return report


def _put(
    model: ResizableTransformer,
    own: Mapping[str, Tensor],
    ready: Mapping[str, Tensor],
    new_heads: set[str],
    report: LoadReport,
) -> None:
    for name in sorted(new_heads):  # in a fixed order, for the random numbers
        if name.endswith("weight"):
            nn.init.trunc_normal_(own[name], std=0.02)
        else:
            nn.init.zeros_(own[name])
    # The longest grid's parts first, then everything that starts from them, then what the source has of that.
    for short in (False, True):
        for name, tensor in ready.items():
            if bool(SHORT.search(name)) == short:
                own[name].copy_(tensor)
        if not short and len(model.grids) > 1:
            model.start_short_grids()
    rest = [name for name in own if SHORT.search(name) and name not in ready]
    if isinstance(model.patch_embed, ConvStem):
        stems = [name for name in rest if name.startswith("patch_embed.stems.")]
        if stems:
            report.remade.append(f"the convolution stems: {len(stems)} tensors keep their random start")
        rest = [name for name in rest if name not in stems]
    report.derive(f"the shorter grids' parts from those of {model.grids[0]}", rest)
