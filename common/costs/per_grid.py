"""What a model costs at each of its token grids, and its assigner: counted in this one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from revit.common.costs.flops import count
from revit.common.models.base import GridModel


@dataclass(frozen=True)
class Costs:
    """GMACs of one view, batch 1, attention included; parameters of the model without its assigner."""

    grids: Mapping[str, float]
    """GMACs by the grid's name, longest first."""
    assigner: float
    num_params: int
    num_assigner_params: int = 0

    def mean(self, shares: Mapping[str, float]) -> float:
        """Return the mean GMACs of inputs of which each grid gets its share, the assigner included."""
        return sum(share * self.grids[name] for name, share in shares.items()) + self.assigner


def count_costs(model: GridModel, assigner: nn.Module | None, input_shape: Sequence[int]) -> Costs:
    """Count model and assigner for inputs of `input_shape`, batch 1. Raise CountError if the counts disagree."""
    counts = {grid.name: count(model, input_shape, grid) for grid in model.grids}
    asking = None if assigner is None else count(assigner, input_shape)
    return Costs(
        grids={name: one.gmacs for name, one in counts.items()},
        assigner=0.0 if asking is None else asking.gmacs,
        num_params=sum(weight.numel() for weight in model.parameters()),
        num_assigner_params=0 if asking is None else asking.params,
    )
