"""One replica of the model per token length, each on a device of its own (ReViT, "Efficient Training Implementation").

The processes are cut into groups of adjacent ranks. All ranks of a group read the same batches and share the grids among
them; groups read different batches, as ordinary data parallelism.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from revit.common.config.sections import ReplicaOptions
from revit.common.methods.task import LengthExchange, OneProcess, SharesLengths
from revit.common.models.grid import TokenGrid
from revit.common.system.errors import UserError
from revit.common.training.parallel.backend import LocalBackend
from revit.common.training.parallel.gradient_sum import BUCKET_BYTES, BufferMean, GradientSum


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
    grids: Sequence[TokenGrid], width: int, options: ReplicaOptions, rank: int = 0, size: int = 1
) -> GridPlacement:
    """Assign `grids` (longest first) of a model of this width to the ranks of a group, as `options` say.

    Unsaid, a group has as few ranks as let the longest grid be the bottleneck: alone on the first rank, and no other rank
    with more to compute than that; where the number of processes is no multiple of that number, the next larger one that fits.
    With fewer than two grids every rank is a group of its own.

    Raises UserError where the keys contradict the grids or the number of processes.
    """
    if len(grids) < 2:
        return GridPlacement((tuple(grids),), rank, size)
    if options.grids_per_rank is not None:
        placed = _as_listed(options, grids)
    else:
        placed = _by_cost(grids, {grid: block_cost(grid, width) for grid in grids}, options, size)
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
        shown = "; ".join(", ".join(map(str, names)) or "nothing" for names in listed)
        raise UserError(
            f"parallel.replicas.grids_per_rank lists {shown}; every grid of the model "
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
    # Those that fit the number of processes first, of them the balanced ones, of them the fewest ranks.
    return min(tried, key=lambda placed: (size % len(placed) > 0, not _is_balanced(placed, costs)))


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


class GroupExchange:
    """A `LengthExchange` in which every rank runs its own grids of `placement`.

    The owner of the longest grid sends its logits and goes on at once; the others receive them after their first forward
    pass. (The paper's figure leaves the order open; without the logits no student has a loss.)

    Random numbers: all ranks of a group draw the same ones outside the passes, so that augmentation and mixing agree.
    Inside a pass (dropout, stochastic depth) they come from a seed of batch and grid, and so do not depend on how the
    grids were placed; afterwards the generators are where they were. That differs from one process, where a pass moves
    them on.
    """

    def __init__(self, placement: GridPlacement, device: torch.device, timeout: timedelta | None = None) -> None:
        self.placement = placement
        self.devices = [torch.cuda.current_device()] if device.type == "cuda" else []
        # Every rank has to make all groups.
        size = placement.ranks_per_group
        firsts = range(0, placement.size, size)
        own = [dist.new_group([*range(one, one + size)], timeout=timeout) for one in firsts][placement.group]
        assert isinstance(own, dist.ProcessGroup)
        self._group = own
        self._longest: TokenGrid | None = None
        self._seed = 0
        self._received: Tensor | None = None
        self._sent: list[tuple[dist.Work, Tensor]] = []
        self._agreed = False

    def begin(self, grids: Sequence[TokenGrid]) -> Sequence[TokenGrid]:
        """Begin a batch; return the grids of this rank."""
        self._longest = grids[0]
        self._received = None
        self._seed = int(torch.randint(2**24, ()))
        return [grid for grid in grids if grid in self.placement.own]

    @contextmanager
    def forwarding(self, grid: TokenGrid) -> Iterator[None]:
        """Draw random numbers of this batch and grid inside."""
        with torch.random.fork_rng(self.devices):
            torch.manual_seed(zlib.crc32(f"{self._seed} {grid}".encode()))
            yield

    def publish(self, logits: Tensor) -> None:
        """Start sending the longest grid's logits."""
        message = torch.cat([logits.float().flatten(), logits.new_full((1,), self._seed, dtype=torch.float32)])
        # Tensors on their way have to live until they have left.
        self._sent = [(work, tensor) for work, tensor in self._sent if not work.is_completed()]
        work = dist.broadcast(message, self._source, self._group, async_op=True)
        assert work is not None
        self._sent.append((work, message))
        self._received = logits

    def teacher_logits(self, like: Tensor) -> Tensor:
        """Receive the longest grid's logits, once per batch.

        Raises RuntimeError if the ranks of this group are out of step in what they draw.
        """
        if self._received is None:
            message = torch.empty(like.numel() + 1, dtype=torch.float32, device=like.device)
            dist.broadcast(message, self._source, self._group)
            if not self._agreed and int(message[-1]) != self._seed:  # once: looking makes a GPU wait
                raise RuntimeError(
                    "the ranks of a group draw different random numbers; seed them by the number of the group"
                )
            self._agreed = True
            self._received = message[:-1].view_as(like).to(like.dtype)
        return self._received

    def finish(self) -> None:
        """Wait until what was sent has arrived."""
        for work, _ in self._sent:
            work.wait()
        self._sent.clear()

    @property
    def _source(self) -> int:
        assert self._longest is not None
        return self.placement.owner(self._longest)


class ReplicaBackend(LocalBackend):
    """Every rank of a group runs its own grids on the same batch; all ranks make the same update.

    Gradients are summed inside a group, which is Algorithm 1's accumulation, and averaged over groups, which is ordinary
    data parallelism; parameters of one grid so take their owner's gradient alone. The result equals the local backend's
    on the same batches but for rounding (and for dropout, see `GroupExchange`).

    Differences from the paper, which sends gradients to the longest grid's replica and its new weights back: a sum that
    every rank receives, and the update made by all, costs the same transfer without the way back, and overlaps with the
    longest grid's backward pass.

    The process group of `torch.distributed` must be there, with as many ranks as `placement` says. The task's `exchange`
    has to be this backend's (`share`). After `prepare` all ranks hold rank 0's weights.
    """

    bucket_bytes = BUCKET_BYTES

    def __init__(self, device: torch.device, *arguments: Any, placement: GridPlacement, **settings: Any) -> None:
        """Make the backend of this `placement`; the other arguments are the local backend's."""
        super().__init__(device, *arguments, **settings)
        self.placement = placement
        self._timeout = timedelta(minutes=self.options.timeout_minutes)
        self.exchange: LengthExchange = (
            GroupExchange(placement, device, self._timeout) if placement.ranks_per_group > 1 else OneProcess()
        )

    def share(self, task: Any) -> None:
        """Let `task` run only this rank's grids. TypeError for one whose grids cannot be shared out."""
        if self.placement.ranks_per_group == 1:
            return
        if not isinstance(task, SharesLengths):
            raise TypeError(f"{type(task).__name__} has no exchange, so its token grids cannot be shared out")
        task.exchange = self.exchange

    def prepare(self, network: nn.Module, optimizer: Optimizer, scheduler: Scheduler) -> nn.Module:
        with torch.no_grad():
            for tensor in [*network.parameters(), *network.buffers()]:
                dist.broadcast(tensor, 0)
        # Gradients leave in the middle of a pass: a channel of their own, which no other talk of the processes can mix up.
        channel = dist.new_group(timeout=self._timeout)
        assert isinstance(channel, dist.ProcessGroup)
        self._gradients = GradientSum(network, self.bucket_bytes, channel)
        self._buffers = BufferMean(network, self.placement.num_groups, channel)
        return super().prepare(network, optimizer, scheduler)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, divided by the number of batches per update and of groups."""
        self._gradients.backward_begins()
        super().backward(loss / self.placement.num_groups)

    def step(self) -> bool:
        last = self._batches + 1 == self.accumulate
        if last:
            self._gradients.finish()
            self._buffers.synchronise()
            if isinstance(self.exchange, GroupExchange):
                self.exchange.finish()
        updated = super().step()
        if last:
            self._gradients.restart()
        return updated

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._buffers.remember()
