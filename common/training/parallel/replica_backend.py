"""One replica of the model per token length, each on a device of its own (ReViT, "Efficient Training Implementation")."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from revit.common.methods.task import LengthExchange, OneProcess, SharesLengths
from revit.common.training.parallel.backend import LocalBackend
from revit.common.training.parallel.gradient_sum import BUCKET_BYTES, BufferMean, GradientSum
from revit.common.training.parallel.group_exchange import GroupExchange
from revit.common.training.parallel.placement import GridPlacement


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
