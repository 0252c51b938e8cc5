"""What a configuration costs: the rows of `flops.py --json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from revit.common.costs.flops import Count, count
from revit.common.methods.revit.assigner import TokenLengthAssigner
from revit.common.methods.run_options import RecipeOptions
from revit.common.modality.load import build_assigner
from revit.common.modality.modality import Modality
from revit.common.models.base import GridModel


def cost_rows(
    config: str, options: RecipeOptions, modality: Modality[Any], shares: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """One row per token grid; with several, one for the assigner; with known `shares` (grid -> fraction of inputs), one
    for the adaptive model: the mean over inputs, the assigner included. Then what the run's methods add, each with the
    "rule" by which it is counted.

    Raises:
        CountError: the counts of a model disagree.
        UserError: the number of classes is not in the configuration, and the data that would tell cannot be read.
    """
    model, assigner = build(options, modality)
    shape = modality.input_shape(options)
    views = modality.num_views(options)
    costs = {grid.name: count(model, shape, grid) for grid in model.grids}
    rows = [_row(config, name, one, views) for name, one in costs.items()]
    if assigner is not None:
        one = count(assigner, shape)
        rows.append(_row(config, "assigner", one, views))
        if shares is not None and set(shares) == set(costs):
            macs = {"mean": 1e9 * sum(share * costs[name].gmacs for name, share in shares.items())}
            params = next(iter(costs.values())).params + one.params
            rows.append(_row(config, "adaptive", Count({**macs, "assigner": 1e9 * one.gmacs}, params), views))
    for method in options.active_methods:
        rows += [_completed(config, row) for row in method.cost_rows(model, shape)]
    return rows


def build(options: RecipeOptions, modality: Modality[Any]) -> tuple[GridModel, TokenLengthAssigner | None]:
    """Untrained model, and assigner where there are several grids. Leaves the random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = modality.build_model(options, num_classes(options, modality))
        return model, build_assigner(options.assigner, len(model.grids)) if options.has_lengths else None


def num_classes(options: Any, modality: Modality[Any]) -> int:
    """As many as the configuration says, else as the data has."""
    return options.model.num_classes or len(modality.label_names(options))


def _row(config: str, grid: str, one: Count, views: int) -> dict[str, Any]:
    return {
        "config": config,
        "grid": grid,
        "params": one.params,
        "gmacs": one.gmacs,
        "gflops": one.gflops,
        "views": views,
        "gmacs_total": one.gmacs * views,
    }


def _completed(config: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A method's row with the keys that every row has; training has no views."""
    gmacs = row["gmacs"]
    return {"config": config, "gflops": 2 * gmacs, "views": 1, "gmacs_total": gmacs, **row}
