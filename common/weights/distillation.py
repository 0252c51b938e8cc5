"""Distillation tokens and heads, which a distilled DeiT and a ReViT have in different places."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from revit.common.models.grid import TokenGrid
from revit.common.models.load_report import LoadReport


def take_distillation(
    source: dict[str, Tensor],
    own: Mapping[str, Tensor],
    ready: dict[str, Tensor],
    report: LoadReport,
) -> int:
    """Brings distillation tokens and heads to where the model has them; returns the source's count of prefix rows.

    A distilled DeiT has one for all grids, a ReViT for its students, under one key or one each; what the model lacks
    in the source's place comes from there, and for a distilled model without any from the class token and head.
    """
    num_prefix = 2 if "dist_token" in source else 1
    places = {name: name.partition(".")[2] for name in own if name.split(".")[0] == "dist_token"}
    if not places:
        names = [name for name in source if name.startswith(("dist_token", "head_dist"))]
        report.leave_out("a distillation token and head, which belong to shorter grids", names)
        for name in names:
            del source[name]
        return num_prefix
    keys = [name.partition(".")[2] for name in source if name.split(".")[0] == "dist_token"]
    taken: set[str] = set()
    for name, key in places.items():
        heads = [f"head_dist{_dot(key)}.{kind}" for kind in ("weight", "bias")]
        if name in source:
            continue
        if keys:  # of a distilled model, of all students, or of the longest of them
            shared = [known for known in ("", "shared") if known in keys]
            chosen = (
                shared[0] if shared else max(keys, key=lambda known: TokenGrid.parse(known).num_positions)
            )
            origin, what = (f"dist_token{_dot(chosen)}", f"head_dist{_dot(chosen)}"), "the source's"
        elif not key:
            origin, what = ("cls_token", "head"), "those of the class"
        else:
            continue  # students' own start, from the longest grid
        ready[name] = source[origin[0]]
        taken.add(origin[0])
        derived = [name]
        for head in heads:
            tensor = source.get(f"{origin[1]}.{head.rpartition('.')[2]}")
            if tensor is not None and head in own and tensor.shape == own[head].shape:
                ready[head] = tensor
                taken.add(f"{origin[1]}.{head.rpartition('.')[2]}")
                derived.append(head)
        report.derive(f"distillation token and head from {what}", derived)
    spare = [name for name in source if name.startswith(("dist_token", "head_dist")) and name not in own]
    for name in spare if keys else ():
        del source[name]
        if name not in taken:
            report.leave_out("a token grid or a head that this model does not have", [name])
    return num_prefix


def _dot(key: str) -> str:
    """The key of a dictionary's entry as part of a name."""
    return f".{key}" if key else ""
