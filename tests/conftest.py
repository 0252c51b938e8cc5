"""Shared by all tests: seeded, and leaving torch's random state and thread count as they were."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch

# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session", autouse=True)
def own_measurements(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test measures of a small model on a busy machine is not kept in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REVIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
