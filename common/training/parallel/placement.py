"""Which rank trains which token grids, when every grid has a replica of the model (ReViT figure 4).

The processes are cut into groups of adjacent ranks. All ranks of a group read the same batches and share the grids among
them; groups read different batches, as ordinary data parallelism.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from revit.common.config.sections import ReplicaOptions
from revit.common.models.grid import TokenGrid
from revit.common.system.errors import UserError


@dataclass(frozen=True)
class GridPlacement:
    """The grids of every rank of a group, and where this process stands."""

    grids_per_rank: tuple[tuple[TokenGrid, ...], ...]
    """Token grids by rank of a group, longest first in each; one empty entry for a network without grids."""
    rank: int = 0
    """Rank of this process among all."""
    size: int = 1
    """Number of processes, a multiple of `ranks_per_group`."""

    @property
    def ranks_per_group(self) -> int:
        return len(self.grids_per_rank)

    @property
    def group(self) -> int:
        """Number of this process's group: its rank as far as data is concerned."""
        return self.rank // self.ranks_per_group

    @property
    def num_groups(self) -> int:
        """How many different batches are read at once."""
        return self.size // self.ranks_per_group

    @property
    def own(self) -> tuple[TokenGrid, ...]:
        """The grids of this process."""
        return self.grids_per_rank[self.rank % self.ranks_per_group]

    def ranks_of(self, group: int) -> list[int]:
        """List the ranks of a group."""
        return list(range(group * self.ranks_per_group, (group + 1) * self.ranks_per_group))

    def owner(self, grid: TokenGrid) -> int:
        """Return the rank of this group that trains `grid`. Raises KeyError for a grid that nobody has."""
        for place, grids in enumerate(self.grids_per_rank):
            if grid in grids:
                return self.group * self.ranks_per_group + place
        raise KeyError(f"grid {grid} has no rank")

    def __str__(self) -> str:
        """Say who trains what."""
        ranks = "; ".join(" and ".join(grid.name for grid in grids) or "all" for grids in self.grids_per_rank)
        groups = "1 group" if self.num_groups == 1 else f"{self.num_groups} groups"
        return f"{groups} of {self.ranks_per_group} with token grids {ranks}"


def place_grids(
    grids: Sequence[TokenGrid],
    width: int,
    options: ReplicaOptions,
    rank: int = 0,
    size: int = 1,
    costs: Mapping[TokenGrid, float] | None = None,
) -> GridPlacement:
    """Assign `grids` (longest first) of a model of this width to the ranks of a group, as `options` say.

    Unsaid, a group has as few ranks as let the longest grid be the bottleneck: alone on the first rank, and no other rank
    with more to compute than that; where the number of processes is no multiple of that number, the next larger one that fits. `costs`
    defaults to what the blocks cost. With fewer than two grids every rank is a group of its own.

    Raises UserError where the keys contradict the grids or the number of processes.
    """
    if len(grids) < 2:
        return GridPlacement((tuple(grids),), rank, size)
    if options.grids_per_rank is not None:
        placed = _as_listed(options, grids)
    else:
        placed = _by_cost(grids, costs or {grid: block_cost(grid, width) for grid in grids}, options, size)
    if size % len(placed):
        raise UserError(
            f"parallel.replicas makes groups of {len(placed)} ranks, and {size} processes are no multiple of that; start "
            f"{len(placed)}, {2 * len(placed)} or so, or set parallel.replicas.ranks_per_group"
        )
    return GridPlacement(placed, rank, size)


def block_cost(grid: TokenGrid, width: int) -> float:
    """Count the multiply-accumulates of one encoder block with MLP ratio 4, divided by the width: enough to compare grids."""
    return grid.num_positions * (12.0 * width + 2.0 * grid.num_positions)


def _as_listed(options: ReplicaOptions, grids: Sequence[TokenGrid]) -> tuple[tuple[TokenGrid, ...], ...]:
    assert options.grids_per_rank is not None
    try:
        listed = [[TokenGrid.parse(grid) for grid in names] for names in options.grids_per_rank]
    except ValueError as error:
        raise UserError(f"parallel.replicas.grids_per_rank: {error}") from error
    flat = [grid for names in listed for grid in names]
    if sorted(map(str, flat)) != sorted(map(str, grids)) or not all(listed):
        raise UserError(
            f"parallel.replicas.grids_per_rank lists {_shown(listed)}; every grid of the model "
            f"({', '.join(map(str, grids))}) belongs to exactly one rank, and every rank has one"
        )
    if options.ranks_per_group not in (None, len(listed)):
        raise UserError(
            f"parallel.replicas.ranks_per_group is {options.ranks_per_group}, but grids_per_rank lists {len(listed)} "
            "ranks; leave one of them out"
        )
    return tuple(tuple(grid for grid in grids if grid in names) for names in listed)


def _by_cost(
    grids: Sequence[TokenGrid], costs: Mapping[TokenGrid, float], options: ReplicaOptions, size: int
) -> tuple[tuple[TokenGrid, ...], ...]:
    if options.ranks_per_group is not None:
        if options.ranks_per_group > len(grids):
            raise UserError(
                f"parallel.replicas.ranks_per_group is {options.ranks_per_group}, more than the model has grids "
                f"({len(grids)}); more processes make more groups"
            )
        return _spread(grids, costs, options.ranks_per_group)
    if size == 1:
        return (tuple(grids),)
    tried = [_spread(grids, costs, ranks) for ranks in range(2, len(grids) + 1)]
    balanced = [placed for placed in tried if _is_balanced(placed, costs)]  # one grid per rank always is
    fitting = [placed for placed in balanced if size % len(placed) == 0] or [
        placed for placed in tried if size % len(placed) == 0
    ]
    return fitting[0] if fitting else balanced[0]


def _spread(
    grids: Sequence[TokenGrid], costs: Mapping[TokenGrid, float], ranks: int
) -> tuple[tuple[TokenGrid, ...], ...]:
    """Place the longest first, then each on the rank with the least so far, never the longest's if there are others."""
    if ranks == 1:
        return (tuple(grids),)
    placed: list[list[TokenGrid]] = [[grids[0]], *([] for _ in range(ranks - 1))]
    for grid in grids[1:]:
        min(placed[1:], key=lambda mine: sum(costs[one] for one in mine)).append(grid)
    return tuple(map(tuple, placed))


def _is_balanced(placed: Sequence[Sequence[TokenGrid]], costs: Mapping[TokenGrid, float]) -> bool:
    longest, *others = (sum(costs[grid] for grid in grids) for grids in placed)
    return all(load <= longest for load in others)


def _shown(listed: Sequence[Sequence[TokenGrid]]) -> str:
    return "; ".join(", ".join(map(str, names)) or "nothing" for names in listed)
