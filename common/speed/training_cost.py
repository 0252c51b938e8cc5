"""What a training step costs on GPUs, by a model with few numbers in it: Algorithm 1 in one process, and replicas.

ReViT's Figure 7 shows measured hours on its authors' machines. Here every assumption is a field with a unit, so that a
reader can put in those of another machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from revit.common.models.grid import TokenGrid

BACKWARD = 2.0
"""A backward pass over a forward pass: two products for each of the forward pass's one."""
UPDATE_BYTES = 7 * 4
"""Memory traffic of AdamW per parameter: weight, gradient and both means read, weight and both means written, float32."""
GRADIENT_BYTES = 4
"""Gradients travel in float32."""


@dataclass(frozen=True)
class Machine:
    """GPUs of one node, one per process. The defaults are an A100's data sheet, with what of it training reaches."""

    tflops: float = 312.0
    """Peak of dense bfloat16 products, 1e12 operations per second."""
    utilisation: float = 0.4
    """Share of the peak that forward and backward passes reach, the same for every token length (short ones reach less)."""
    link_gb: float = 200.0
    """1e9 bytes per second that each GPU sends in a ring all-reduce (NVLink: 300 nominal; 100 Gbit Ethernet: 12)."""
    latency_us: float = 30.0
    """Microseconds from the call of a collective to its first byte."""
    memory_gb: float = 1555.0
    """1e9 bytes per second of the GPU's memory, for the optimiser."""
    bucket_bytes: int = 25 * 2**20
    """Gradients are sent in pieces of this size."""

    def forward(self, gmacs: float, batch: int) -> float:
        """Seconds of one forward pass; gmacs per input."""
        return 2e9 * gmacs * batch / (1e12 * self.tflops * self.utilisation)

    def assumptions(self, batch: int) -> list[str]:
        """All of them, for people."""
        return [
            f"{self.tflops:g} TFLOPS peak, {self.utilisation:.0%} of it reached at every token length, batch {batch}",
            f"a backward pass takes {BACKWARD:g} forward passes; operations are two per counted multiply-accumulate",
            f"gradients in float32, {self.bucket_bytes / 2**20:g} MiB a bucket, ring all-reduce at {self.link_gb:g} GB/s "
            f"and {self.latency_us:g} us each, sent while the backward pass goes on at an even pace",
            f"AdamW moves {UPDATE_BYTES} bytes per parameter at {self.memory_gb:g} GB/s, on every GPU alike",
            "loading, augmentation, kernel launches and stragglers cost nothing",
        ]


@dataclass(frozen=True)
class StepCost:
    """Seconds of one update, and where they go."""

    seconds: float
    exposed: float
    """Of them, waiting for gradients after the slowest rank has computed its last."""
    busy: float
    """Share of all GPUs' time that is spent in forward and backward passes."""


def sequential_step(
    gmacs: Mapping[TokenGrid, float], num_parameters: int, batch: int, machine: Machine
) -> StepCost:
    """Algorithm 1 on one GPU: all grids one after the other. `gmacs` per input."""
    compute = sum((1 + BACKWARD) * machine.forward(one, batch) for one in gmacs.values())
    seconds = compute + _update(num_parameters, machine)
    return StepCost(seconds, 0.0, compute / seconds)


def replica_step(
    gmacs: Mapping[TokenGrid, float],
    grids_per_rank: Sequence[Sequence[TokenGrid]],
    num_parameters: int,
    batch: int,
    machine: Machine,
) -> StepCost:
    """One group of replicas: each rank runs its grids, longest first; the others than the longest wait for its logits.

    gmacs: per input, longest first. The logits themselves (a few hundred KB) cost one latency.
    """
    longest = next(iter(gmacs))
    forward = {grid: machine.forward(one, batch) for grid, one in gmacs.items()}
    logits_here = forward[longest] + machine.latency_us * 1e-6
    spans = []
    """Per rank: when its last backward pass begins and ends."""
    for grids in grids_per_rank:
        now = 0.0
        begin = 0.0
        for grid in grids:
            now += forward[grid]
            begin = now if grid == longest else max(now, logits_here)
            now = begin + BACKWARD * forward[grid]
        spans.append((begin, now))
    computed = max(end for _, end in spans)
    compute = sum((1 + BACKWARD) * one for one in forward.values())
    sent = _last_bucket_arrives(spans, num_parameters, machine) if len(spans) > 1 else computed
    seconds = max(computed, sent) + _update(num_parameters, machine)
    return StepCost(seconds, max(0.0, sent - computed), compute / (len(spans) * seconds))


def _last_bucket_arrives(
    spans: Sequence[tuple[float, float]], num_parameters: int, machine: Machine
) -> float:
    """Buckets leave in order, each once every rank has filled it, one at a time."""
    ranks = len(spans)
    num_bytes = GRADIENT_BYTES * num_parameters
    buckets = math.ceil(num_bytes / machine.bucket_bytes)
    transfer = 2 * (ranks - 1) / ranks * num_bytes / buckets / (1e9 * machine.link_gb)
    now = 0.0
    for number in range(1, buckets + 1):
        filled = max(begin + (end - begin) * number / buckets for begin, end in spans)
        now = max(now, filled) + machine.latency_us * 1e-6 + transfer
    return now


def _update(num_parameters: int, machine: Machine) -> float:
    return UPDATE_BYTES * num_parameters / (1e9 * machine.memory_gb)
