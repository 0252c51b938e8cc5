"""What every training says of its processes before it begins."""

from __future__ import annotations

import json

import pytest
import torch
from noted_training import run

from revit.common.config.sections import ParallelOptions, TrainOptions
from revit.common.models.grid import TokenGrid
from revit.common.system.distributed import DistributedContext
from revit.common.training.parallel.backend import LocalBackend
from revit.common.training.parallel.backends import Division, start_facts, start_line
from revit.common.training.parallel.replicas import GridPlacement


class Machines(DistributedContext):
    """Processes on two machines with four each."""

    def gather(self, value):
        return [(f"n{rank // 4}", value[1]) for rank in range(self.size)]


GROUPS = GridPlacement(((TokenGrid(6, 6),), (TokenGrid(3, 3),)), 0, 8)
UPDATE = "an update is 128 samples"


@pytest.mark.parametrize(
    ("division", "parallel", "said"),
    [
        (Division("deepspeed", 0, 8), {}, f"DeepSpeed ZeRO 1, bfloat16; {UPDATE} = 8 x 8 processes x 2"),
        (
            Division("deepspeed", 0, 8),
            {"zero_stage": 3, "offload": "parameters"},
            f"DeepSpeed ZeRO 3 with offload parameters, bfloat16; {UPDATE} = 8 x 8 processes x 2",
        ),
        (
            Division("replicas", 0, 4, GROUPS),
            {},
            "replicas (4 groups of 2 with token grids 6x6; 3x3), bfloat16; an update is 64 samples = 8 x 4 groups x 2",
        ),
    ],
)
def test_of_several_processes(division, parallel, said):
    backend = LocalBackend(torch.device("cpu"), "bfloat16", accumulate=2)
    train = TrainOptions(batch_size=8)
    facts = start_facts(division, backend, ParallelOptions(**parallel), train, Machines(0, 8))
    assert start_line(facts) == f"8 processes on 2 machines, cpu, {said}"


def test_of_one_process_in_short_and_in_the_log(tmp_path, capsys):
    run(tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "model: 1 process, cpu, plain PyTorch, float32; an update is 4 samples = 2 x 2"
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert {key: first[key] for key in ("event", "stage", "processes", "machines", "devices")} == {
        "event": "start",
        "stage": "model",
        "processes": 1,
        "machines": 1,
        "devices": {"cpu": 1},
    }
    assert (first["backend"], first["accumulate"], first["effective_batch"]) == ("local", 2, 4)


def test_machines_with_other_devices_are_counted():
    facts = {
        "processes": 3,
        "machines": 2,
        "devices": {"A": 2, "B": 1},
        "backend": "deepspeed",
        "zero_stage": 0,
        "offload": "none",
        "dtype": "float32",
        "batch_size": 1,
        "reading": 3,
        "accumulate": 1,
        "effective_batch": 3,
    }
    assert start_line(facts).startswith("3 processes on 2 machines, 2 x A and 1 x B, DeepSpeed ZeRO 0, float32")
