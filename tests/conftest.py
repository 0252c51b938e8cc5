"""Shared by all tests: seeded, and leaving torch's random state and thread count as they were."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


@pytest.fixture(autouse=True)
def ordinary_priority():
    """The encoder that makes AV1 clips gives the process real-time priority where it may, and leaves it so: what the process
    starts later would starve the machine."""
    yield
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
