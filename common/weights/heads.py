"""Heads for other classes or in another order, and distillation tokens with theirs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from revit.common.data.label_names import are_numbers
from revit.common.models.grid import TokenGrid
from revit.common.weights.adapt import Fitting

HEAD = re.compile(r"(head|aux_head|head_dist|head_dist\..+)\.(weight|bias)")
"""Class head, LV-ViT's head for patches, heads of distillation tokens."""
MAIN = "head.weight"


def take_heads(fitting: Fitting, label_names: tuple[str, ...]) -> set[str]:
    """Take heads that do not fit out of the source, all together; return their names in the model, to be made anew.

    Where both sides name their classes and the names are the same in another order, rows are put in the model's order.
    """
    source, own, report = fitting.source, fitting.own, fitting.report
    ours = {name for name in own if re.fullmatch(r"(head|aux_head|head_dist)\.(weight|bias)", name)}
    # Names that are numbers say nothing about the classes.
    names, wanted = (() if are_numbers(one) else one for one in (report.label_names, label_names))
    theirs, sought = [_plain(name) for name in names], [_plain(name) for name in wanted]
    after = own[MAIN].shape[0] if MAIN in own else 0
    report.label_names = ()
    if MAIN not in source:
        if ours:
            report.remade.append(f"head: the source has none -> {after} classes")
        return ours
    before = source[MAIN].shape[0]
    heads = [name for name in source if HEAD.fullmatch(name)]
    if before == after and (not wanted or not names or theirs == sought):
        report.label_names = wanted or names
        if wanted and not names:
            report.notes.append(f"the source names no classes; its head was kept because the count, {after}, agrees")
        return set()
    if before == after and sorted(theirs) == sorted(sought) and len(set(theirs)) == before:
        order = torch.tensor([theirs.index(name) for name in sought])
        source.update({name: source[name][order] for name in heads})
        report.notes.append("the source's classes come in another order; the head's rows were put in the model's")
        report.label_names = wanted
        return set()
    why = "other class names" if before == after else f"{before} -> {after} classes"
    fitting.leave_out(f"a head for other classes ({why})", heads)
    if ours:
        report.remade.append(f"head: {why}, starts at random")
    return ours


def draw_heads(own: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Draw the weights of new heads, in a fixed order for the random numbers."""
    for name in sorted(names):
        if name.endswith("weight"):
            nn.init.trunc_normal_(own[name], std=0.02)
        else:
            nn.init.zeros_(own[name])


def _plain(name: str) -> str:
    """Reduce a class name to what spellings share: "Playing_Guitar" and "playing guitar" are one class."""
    return " ".join(name.casefold().replace("_", " ").split())


def take_distillation(fitting: Fitting) -> int:
    """Bring distillation tokens and heads to where the model has them; return the source's count of prefix rows.

    A distilled DeiT has one for all grids, a ReViT for its students, under one key or one each; what the model lacks
    in the source's place comes from there, and for a distilled model without any from the class token and head.
    """
    source, own = fitting.source, fitting.own
    num_prefix = 2 if "dist_token" in source else 1
    theirs = [name for name in source if name.startswith(("dist_token", "head_dist"))]
    keys = [name.partition(".")[2] for name in source if name.split(".")[0] == "dist_token"]
    places = [name for name in own if name.split(".")[0] == "dist_token"]
    if not places:
        fitting.leave_out("a distillation token and head, which belong to shorter grids", theirs)
        return num_prefix
    taken: set[str] = set()
    for name in places:
        if name in source:
            continue
        key = name.partition(".")[2]
        if keys:  # of a distilled model, of all students, or of the longest of them
            shared = [known for known in ("", "shared") if known in keys]
            chosen = shared[0] if shared else max(keys, key=lambda one: TokenGrid.parse(one).num_positions)
            token, head, what = f"dist_token{_dot(chosen)}", f"head_dist{_dot(chosen)}", "the source's"
        elif not key:
            token, head, what = "cls_token", "head", "those of the class"
        else:
            continue  # students' own start, from the longest grid
        made = {name: token}
        for kind in ("weight", "bias"):
            ours, origin = f"head_dist{_dot(key)}.{kind}", f"{head}.{kind}"
            if origin in source and ours in own and source[origin].shape == own[ours].shape:
                made[ours] = origin
        fitting.ready.update({ours: source[origin] for ours, origin in made.items()})
        taken.update(made.values())
        fitting.report.derive(f"distillation token and head from {what}", made)
    spare = [name for name in theirs if name not in own] if keys else []
    fitting.leave_out(
        "a token grid or a head that this model does not have", (name for name in spare if name not in taken)
    )
    for name in taken.intersection(spare):
        del source[name]
    return num_prefix


def _dot(key: str) -> str:
    """Return the key of a dictionary's entry as part of a name."""
    return f".{key}" if key else ""
