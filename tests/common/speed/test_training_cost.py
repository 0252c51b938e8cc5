"""The cost of a training step: the model of GPUs does its sums right."""

from __future__ import annotations

import pytest

from revit.common.models.grid import longest_first
from revit.common.speed.training_cost import Machine, replica_step, sequential_step

GRIDS = longest_first([14, 10, 7])
GMACS = dict(zip(GRIDS, (4.0, 2.0, 1.0)))
FREE = {"latency_us": 1e-9, "memory_gb": 1e12}
"""Latency and optimiser cost nothing."""


def test_one_process_pays_for_every_length():
    machine = Machine(tflops=100, utilisation=0.5, **FREE)
    step = sequential_step(GMACS, 10**6, batch=50, machine=machine)
    assert step.seconds == pytest.approx(3 * 2 * 7e9 * 50 / 50e12)
    assert (step.exposed, step.busy) == (0, pytest.approx(1))


def test_the_longest_grid_is_the_bottleneck_of_replicas():
    machine = Machine(tflops=100, utilisation=0.5, link_gb=1e9, **FREE)
    longest = sequential_step({GRIDS[0]: 4.0}, 10**6, 50, machine).seconds
    for dealt in ([GRIDS[:1], GRIDS[1:]], [[grid] for grid in GRIDS]):
        step = replica_step(GMACS, dealt, 10**6, 50, machine)
        assert step.seconds == pytest.approx(longest)
        assert step.busy == pytest.approx(7 / 4 / len(dealt))


def test_students_wait_for_the_logits():
    """Grids of equal cost: the student, too, begins its backward pass when the teacher's forward pass is done, and a
    second student behind it ends later than the teacher."""
    machine = Machine(tflops=2, utilisation=1, link_gb=1e9, **FREE)
    alike = dict.fromkeys(GRIDS, 1.0)  # one millisecond forward, two backward
    one = replica_step(alike, [[grid] for grid in GRIDS], 10**6, 1, machine)
    assert one.seconds == pytest.approx(3e-3)
    two = replica_step(alike, [GRIDS[:1], GRIDS[1:]], 10**6, 1, machine)
    assert two.seconds == pytest.approx(6e-3)


def test_only_the_last_bucket_cannot_hide():
    """4 MB in ten buckets. The longest's backward pass takes the milliseconds from 4 to 12."""
    settings = {"tflops": 2, "utilisation": 1, "bucket_bytes": 400_000, **FREE}
    apart, shared = [[grid] for grid in GRIDS], [GRIDS[:1], GRIDS[1:]]
    fast = Machine(link_gb=1, **settings)
    # A third more than 0.4 ms each: three ranks send 4 / 3 of the bytes.
    assert replica_step(GMACS, apart, 10**6, 1, fast).exposed == pytest.approx(0.4e-3 * 4 / 3)
    # The last pass of the rank with two grids begins at 9: its first bucket is full at 9.2.
    assert replica_step(GMACS, shared, 10**6, 1, fast).exposed == pytest.approx(9.2e-3 + 10 * 0.4e-3 - 12e-3)
    slow = Machine(link_gb=0.1, **settings)
    assert replica_step(GMACS, shared, 10**6, 1, slow).exposed == pytest.approx(9.2e-3 + 10 * 4e-3 - 12e-3)


def test_assumptions_are_said():
    said = " ".join(Machine(tflops=989, link_gb=370).assumptions(batch=64))
    for fact in ("989 TFLOPS", "40%", "batch 64", "370 GB/s", "25 MiB", "28 bytes"):
        assert fact in said
