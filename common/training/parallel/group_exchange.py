"""The token grids of a batch, shared out among the ranks of a group (ReViT figure 4)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from revit.common.models.grid import TokenGrid
from revit.common.training.parallel.placement import GridPlacement


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
        groups = [dist.new_group(placement.ranks_of(number), timeout=timeout) for number in range(placement.num_groups)]
        own = groups[placement.group]
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
