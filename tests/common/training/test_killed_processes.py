"""Two processes killed at ten random moments, gone on with each time, train what two that nobody disturbs train.

One start of killed_runs.py does it for every backend; the tests read what it found.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import killed_runs
import pytest

SCRIPT = Path(killed_runs.__file__)
BACKENDS = ["zero 1", "zero 3", "replicas"]
NUM_SAMPLES, READ_PER_EPOCH, EPOCHS = 27, 24, 5


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_kills_meet_the_training_and_half_written_states(found, backend):
    statuses = found[backend]["statuses"]
    assert statuses["undisturbed"] == statuses["finished"] == [0, 0]
    assert statuses["killed"] == [[signal.SIGKILL] * 2] * 10
    assert found[backend]["half written"] >= 3
    assert len(set(found[backend]["begun at"])) > 2  # epochs


@pytest.mark.parametrize("backend", BACKENDS)
def test_killed_at_ten_random_moments_two_processes_end_with_the_same_bits(found, backend):
    """Weights and their average; the optimiser's state, the schedule, the random numbers of both processes."""
    assert found[backend]["same weights"]
    assert found[backend]["same state"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_trained_twice_and_nothing_skipped(found, backend):
    """Of every update that led to the weights: the same samples in the same batches on the same process."""
    assert found[backend]["same batches"]
    assert found[backend]["same batches in a group"]
    assert found[backend]["updates"] == EPOCHS * READ_PER_EPOCH // 8
    assert len(found[backend]["epochs"]) == EPOCHS
    for samples in found[backend]["epochs"]:
        assert len(samples) == len(set(samples)) == READ_PER_EPOCH
        assert set(samples) <= set(range(NUM_SAMPLES))
