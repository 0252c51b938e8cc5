"""The family of LV-ViT's token-label targets and losses: no network, all inputs are stored with the answers."""

from __future__ import annotations

import torch
from parity_cases import Answer, Case
from torch import Tensor

from revit.common.models.grid import TokenGrid
from revit.image.tasks import (
    RegionTargets,
    correct_by_label,
    densify,
    mix_with_partner,
    on_and_off,
    soft_cross_entropy,
    soft_labels,
)


def targets_and_losses(case: Case) -> Answer:
    """`lvvit_token_label`: the published targets (in its transposed axis order) and its three losses."""
    config = case.config
    stored = {name: torch.from_numpy(array) for name, array in case.expected.items()}
    classes, smoothing = config["classes"], config.get("smoothing", 0.0)
    on, off = on_and_off(smoothing, classes)
    on, off = config.get("on_value", on), config.get("off_value", off)
    grid = _grid(config["token_label_size"])

    maps = torch.stack([stored["label_value"].float(), stored["label_index"].float()], dim=1)
    regions = RegionTargets(densify(maps, classes), stored["crop_top_left_h_w"], on, off, "official")
    label, whole = soft_labels(stored["y"], classes, on, off), regions.whole()
    patches = regions.patches(grid.rows, grid.cols)
    target = torch.cat([label[:, None], whole[:, None], patches], dim=1).transpose(1, 2)

    def loss(class_target: Tensor) -> Tensor:
        class_term = soft_cross_entropy(stored["cls_logits"], class_target)
        dense_term = soft_cross_entropy(stored["aux_logits"], patches)
        return config.get("cls_weight", 1.0) * class_term + config.get("dense_weight", 1.0) * dense_term

    answers = {"target": target, "loss_nomix": loss(whole), "loss_ground_truth": loss(correct_by_label(whole, label))}
    if config.get("mix_box_rows_cols") is not None:
        top, left, bottom, right = config["mix_box_rows_cols"]
        keep_share = 1 - (bottom - top) * (right - left) / grid.num_positions
        answers["loss_mix"] = loss(mix_with_partner(whole, keep_share))
    return Answer(None, {**{name: stored[name] for name in INPUTS if name in stored}, **answers})


INPUTS = ("label_value", "label_index", "crop_top_left_h_w", "y", "cls_logits", "aux_logits")


def _grid(size: int | list[int]) -> TokenGrid:
    return TokenGrid.parse(size) if isinstance(size, int) else TokenGrid(*size)
