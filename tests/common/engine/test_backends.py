"""What starting a training would be refused for is known before any begins."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from revit.common.engine.backends import check_training
from revit.common.engine.distributed import World
from revit.common.engine.options import EngineOptions, TrainOptions
from revit.common.errors import UserError

CPU = torch.device("cpu")


def check(section: str, train: TrainOptions, processes: int, **engine) -> None:
    options = EngineOptions.model_validate(engine)
    check_training(section, options, train, nn.Linear(2, 2), CPU, "float32", World(0, processes, 0))


def test_what_fits_is_not_refused(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"train_batch_size": 16, "gradient_accumulation_steps": 2}))
    train = TrainOptions(batch_size=4, effective_batch=16)
    check("train", train, 1)
    check("train", train, 2, deepspeed_config=path)
    check("train", train, 2, backend="replicas")


def test_contradictions_name_the_keys_of_their_training(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(
        json.dumps({"train_batch_size": 8, "optimizer": {"type": "Adam"}, "scheduler": {"type": "X"}})
    )
    with pytest.raises(UserError) as raised:
        check("assigner.train", TrainOptions(batch_size=4, effective_batch=16), 2, deepspeed_config=path)
    for expected in (
        "train_batch_size: 8 in the file, 16 here by assigner.train.effective_batch",
        'optimizer.type: "Adam" in the file, "SGD" here by assigner.train.optim',
        "the learning rate follows assigner.train.schedule",
    ):
        assert expected in str(raised.value)


@pytest.mark.parametrize(
    ("processes", "engine", "part"),
    [
        (3, {}, "assigner.train: effective_batch 16 is not a multiple of 12"),
        (2, {"backend": "local"}, "local, which is one process, but 2 were started"),
        (1, {"backend": "replicas"}, "wants several processes"),
    ],
)
def test_numbers_of_processes_that_do_not_fit_are_refused(processes, engine, part):
    with pytest.raises(UserError, match=part):
        check("assigner.train", TrainOptions(batch_size=4, effective_batch=16), processes, **engine)
