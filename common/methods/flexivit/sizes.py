"""Which token grid a training runs at, update by update: drawn at random, by a curriculum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from revit.common.models.grid import TokenGrid

SALT = 0x666C6578
"""Keeps these draws apart from others that are made from the same seed and update."""


@dataclass(frozen=True)
class Stage:
    """A distribution over token grids for a share of the training."""

    share: float
    grids: tuple[TokenGrid, ...]
    weights: tuple[float, ...]
    """One per grid, not negative, in any unit."""

    def draw(self, seed: int, update: int) -> TokenGrid:
        """A grid that depends on nothing but the distribution and these two numbers, on any machine."""
        uniform = np.random.default_rng((seed, update, SALT)).random()
        edges = np.cumsum(self.weights) / np.sum(self.weights)
        return self.grids[min(int(np.searchsorted(edges, uniform, side="right")), len(self.grids) - 1)]


@dataclass(frozen=True)
class SizeSchedule:
    """FlexiViT's random sizes and its curricula (section 5.4): stages one after the other, each with its distribution."""

    seed: int
    stages: Sequence[Stage]
    """Their shares add up to 1."""

    def stage_at(self, fraction: float) -> Stage:
        """The stage after this share of the training, from 0 to 1."""
        end = 0.0
        for stage in self.stages:
            end += stage.share
            if fraction < end - 1e-9:
                return stage
        return self.stages[-1]

    def grid_at(self, update: int, fraction: float) -> TokenGrid:
        """The grid of an update: the same on every process and after a resume."""
        return self.stage_at(fraction).draw(self.seed, update)
