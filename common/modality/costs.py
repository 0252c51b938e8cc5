"""What a configuration costs: the rows of `flops.py --json`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from revit.common.costs.flops import count_costs
from revit.common.data.formats.base import Split
from revit.common.methods.revit.adaptive import TokenLengthAssigner
from revit.common.methods.run_options import RecipeOptions
from revit.common.modality.load import build_assigner
from revit.common.modality.modality import Modality
from revit.common.models.base import GridModel

LOG = logging.getLogger("revit.costs")

SPLITS: tuple[Split, ...] = ("train", "val", "test")
UNKNOWN_CLASSES = 2
"""Classes that are counted where a configuration waits for its user's list."""


def cost_rows(
    config: str, options: RecipeOptions, modality: Modality[Any], shares: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Make one row per token grid; with several, one for the assigner; with known `shares` (grid -> fraction of inputs), one
    for the adaptive model: the mean over inputs, the assigner included. Then what the run's methods add, each with the
    "rule" by which it is counted.

    Raises:
        CountError: the counts of a model disagree.
        UserError: the number of classes is not in the configuration, and the data that would tell cannot be read.
    """
    model, assigner = build(options, modality)
    shape = modality.input_shape(options)
    views = modality.num_views(options)
    costs = count_costs(model, assigner, shape)
    found = {name: (gmacs, costs.num_params) for name, gmacs in costs.grids.items()}
    if assigner is not None:
        found["assigner"] = costs.assigner, costs.num_assigner_params
        if shares is not None and set(shares) == set(costs.grids):
            found["adaptive"] = costs.mean(shares), costs.num_params + costs.num_assigner_params
    rows = [_row(config, grid, *one, views) for grid, one in found.items()]
    for method in options.active_methods:
        rows += [_completed(config, row) for row in method.cost_rows(model, shape)]
    return rows


def build(options: RecipeOptions, modality: Modality[Any]) -> tuple[GridModel, TokenLengthAssigner | None]:
    """Build the untrained model, and the assigner where there are several grids. Leaves the random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        named = options.model.num_classes or any(modality.has_split(options, split) for split in SPLITS)
        if not named:
            LOG.warning("no list and no model.num_classes: counted with a head for %d classes", UNKNOWN_CLASSES)
        model = modality.build_model(options, modality.num_classes(options) if named else UNKNOWN_CLASSES)
        return model, build_assigner(options.assigner, len(model.grids)) if options.has_lengths else None


def _row(config: str, grid: str, gmacs: float, params: int, views: int) -> dict[str, Any]:
    return {
        "config": config,
        "grid": grid,
        "params": params,
        "gmacs": gmacs,
        "gflops": 2 * gmacs,
        "views": views,
        "gmacs_total": gmacs * views,
    }


def _completed(config: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a method's row the keys that every row has; training has no views."""
    gmacs = row["gmacs"]
    return {"config": config, "gflops": 2 * gmacs, "views": 1, "gmacs_total": gmacs, **row}
