"""Heads for other classes, or for the same classes in another order."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from revit.common.models.load_report import LoadReport

HEAD = re.compile(r"(head|aux_head|head_dist|head_dist\..+)\.(weight|bias)")
"""Class head, LV-ViT's head for patches, heads of distillation tokens."""
MAIN = "head.weight"


def take_heads(
    source: dict[str, Tensor], own: Mapping[str, Tensor], report: LoadReport, wanted: tuple[str, ...]
) -> set[str]:
    """Takes heads that do not fit out of `source`, all together, and returns their names in the model, to be made anew.

    Where both sides name their classes and the names are the same in another order, rows are put in the model's order.
    """
    ours = {name for name in own if re.fullmatch(r"(head|aux_head|head_dist)\.(weight|bias)", name)}
    names, wanted = _real(report.label_names), _real(wanted)
    theirs, sought = [_plain(name) for name in names], [_plain(name) for name in wanted]
    after = own[MAIN].shape[0] if MAIN in own else 0
    if MAIN not in source:
        report.label_names = ()
        if ours:
            report.remade.append(f"head: the source has none -> {after} classes")
        return ours
    before = source[MAIN].shape[0]
    heads = [name for name in source if HEAD.fullmatch(name)]
    if before == after and (not wanted or not names or theirs == sought):
        report.label_names = wanted or names
        if wanted and not names:
            report.notes.append(
                f"the source names no classes; its head was kept because the count, {after}, agrees"
            )
        return set()
    if before == after and sorted(theirs) == sorted(sought) and len(set(theirs)) == before:
        order = torch.tensor([theirs.index(name) for name in sought])
        for name in heads:
            source[name] = source[name][order]
        report.notes.append(
            "the source's classes come in another order; the head's rows were put in the model's"
        )
        report.label_names = wanted
        return set()
    why = "other class names" if before == after else f"{before} -> {after} classes"
    report.label_names = ()
    for name in heads:
        del source[name]
    report.leave_out(f"a head for other classes ({why})", heads)
    if ours:
        report.remade.append(f"head: {why}, starts at random")
    return ours


def _real(names: tuple[str, ...]) -> tuple[str, ...]:
    """Class names, or none where they are just the numbers: those say nothing about the classes."""
    return () if all(name == str(number) for number, name in enumerate(names)) else names


def _plain(name: str) -> str:
    """A class name as far as spellings agree: "Playing_Guitar" and "playing guitar" are one class."""
    return " ".join(name.casefold().replace("_", " ").split())
