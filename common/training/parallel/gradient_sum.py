"""Gradients added up over all processes while the last backward pass still runs.

As in PyTorch's DistributedDataParallel, gradients live in flat buckets that are reduced as they fill. That class has to
be told before a forward pass whether its backward pass is the update's last (`no_sync`); here a task yields losses one by one
and ranks run different numbers of passes, so the first update shows which is the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_BYTES = 25 * 2**20
"""Size from which a bucket is sent: PyTorch's default. One bucket's transfer is all that cannot hide."""


@dataclass
class _Bucket:
    flat: Tensor
    parameters: list[nn.Parameter]
    views: list[Tensor]
    expected: set[nn.Parameter] = field(default_factory=set)
    """Parameters whose last gradient comes in this rank's last backward pass."""
    missing: set[nn.Parameter] = field(default_factory=set)
    work: dist.Work | None = None


class GradientSum:
    """The gradients of `network`, summed over all ranks of `group` (the world); a missing one counts as zero.

    Every rank calls `backward_begins` before each backward pass, `finish` once after the last one of an update, and
    `restart` when the optimiser is done. The first update shows which parameters get gradients on which rank, and how
    many passes there are; from then on each bucket is sent, in the same order everywhere, as soon as its last gradient
    of the last pass is there. What no rank has a gradient for stays without.
    """

    def __init__(
        self, network: nn.Module, bucket_bytes: int = BUCKET_BYTES, group: dist.ProcessGroup | None = None
    ) -> None:
        self.bucket_bytes = bucket_bytes
        self.group = group
        # Roughly the order of a backward pass.
        named = [*network.named_parameters()][::-1]
        self._names = {parameter: name for name, parameter in named if parameter.requires_grad}
        self._buckets: list[_Bucket] | None = None
        self._bucket_of: dict[nn.Parameter, _Bucket] = {}
        self._fired: set[nn.Parameter] = set()
        """Parameters that the present pass of the first update has reached."""
        self._passes = 0
        self._passes_per_update = 0
        self._next = 0
        """Buckets already sent."""
        for parameter in self._names:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def backward_begins(self) -> None:
        """Begin another backward pass of this update."""
        self._passes += 1
        self._fired.clear()
        if self._passes == self._passes_per_update:
            self._send()

    def finish(self) -> None:
        """Wait until every gradient is the sum over all ranks."""
        if self._buckets is None:
            self._passes_per_update = self._passes
            self._buckets = self._fill_buckets()
        else:
            for parameter in self._names:
                if parameter.grad is not None and parameter not in self._bucket_of:
                    raise self._changed(parameter)
        self._send(all_of_them=True)
        for bucket in self._buckets:
            if bucket.work is not None:
                bucket.work.wait()

    def restart(self) -> None:
        """Set all gradients to zero, in their buckets, whatever the optimiser did with them."""
        for bucket in self._buckets or ():
            bucket.flat.zero_()
            bucket.missing = set(bucket.expected)
            bucket.work = None
            for parameter, view in zip(bucket.parameters, bucket.views):
                parameter.grad = view
        self._passes = self._next = 0

    def _arrived(self, parameter: nn.Parameter) -> None:
        if self._buckets is None:
            self._fired.add(parameter)
        elif self._passes >= self._passes_per_update and parameter in self._bucket_of:
            bucket = self._bucket_of[parameter]
            if bucket.work is not None:
                raise self._changed(parameter)
            bucket.missing.discard(parameter)
            self._send()

    def _send(self, all_of_them: bool = False) -> None:
        """Send the next buckets, up to the first that waits for a gradient. In order: the collectives of all ranks have to
        match."""
        buckets = self._buckets or []
        while self._next < len(buckets) and (all_of_them or not buckets[self._next].missing):
            buckets[self._next].work = dist.all_reduce(buckets[self._next].flat, group=self.group, async_op=True)
            self._next += 1

    def _fill_buckets(self) -> list[_Bucket]:
        """Make the buckets, after the passes of the first update, with what this rank has."""
        parameters = list(self._names)
        if not parameters:
            return []
        here = [int(parameter.grad is not None) for parameter in parameters]
        anywhere = torch.tensor(here, dtype=torch.int32, device=parameters[0].device)
        dist.all_reduce(anywhere, group=self.group)
        used = [one for one, count in zip(parameters, anywhere.tolist()) if count]
        buckets = [_bucket(group) for group in _cut(used, self.bucket_bytes)]
        for bucket in buckets:
            bucket.expected = self._fired.intersection(bucket.parameters)
            self._bucket_of.update(dict.fromkeys(bucket.parameters, bucket))
        return buckets

    def _changed(self, parameter: nn.Parameter) -> RuntimeError:
        return RuntimeError(
            f"{self._names[parameter]} got a gradient in a pass that gave it none in the first update; with a replica per token "
            "length every update has to use the same parameters"
        )


class BufferMean:
    """Buffers of `network` (BatchNorm statistics), the same on every rank after each update.

    What the ranks changed since the last time is added up and divided by the number of groups: a buffer of one grid's
    own stem becomes its owner's, or the mean over the owners of all groups.
    """

    def __init__(self, network: nn.Module, num_groups: int, group: dist.ProcessGroup | None = None) -> None:
        self.num_groups = num_groups
        self.group = group
        self._buffers = [buffer for buffer in network.buffers() if buffer.numel()]
        self.remember()

    def remember(self) -> None:
        """Remember the buffers, which are equal on all ranks now."""
        self._before = self._flat()

    @torch.no_grad()
    def synchronise(self) -> None:
        """Make the buffers equal on all ranks. Called by all."""
        if not self._buffers:
            return
        change = self._flat() - self._before
        dist.all_reduce(change, group=self.group)
        values = (self._before + change / self.num_groups).split([one.numel() for one in self._buffers])
        for buffer, value in zip(self._buffers, values):
            buffer.copy_(value.view_as(buffer))
        self.remember()

    def _flat(self) -> Tensor:
        # float64 holds differences of float32 numbers, and counts, without rounding that would show.
        flat = [buffer.detach().double().flatten() for buffer in self._buffers]
        return torch.cat(flat) if flat else torch.empty(0)


def _bucket(parameters: list[nn.Parameter]) -> _Bucket:
    first = parameters[0]
    flat = torch.zeros(sum(one.numel() for one in parameters), dtype=first.dtype, device=first.device)
    views = [piece.view_as(one) for one, piece in zip(parameters, flat.split([one.numel() for one in parameters]))]
    for parameter, view in zip(parameters, views):
        if parameter.grad is not None:
            view.copy_(parameter.grad)
        parameter.grad = view
    return _Bucket(flat, parameters, views)


def _cut(parameters: Sequence[nn.Parameter], size: int) -> list[list[nn.Parameter]]:
    """Cut into runs of at least `size` bytes (the last may be smaller), each of one dtype."""
    groups: list[list[nn.Parameter]] = []
    num_bytes = 0
    for parameter in parameters:
        if not groups or num_bytes >= size or groups[-1][0].dtype != parameter.dtype:
            groups.append([])
            num_bytes = 0
        groups[-1].append(parameter)
        num_bytes += parameter.numel() * parameter.element_size()
    return groups
