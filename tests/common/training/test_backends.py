"""What starting a training would be refused for is known before any begins."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from revit.common.config.sections import ParallelOptions, TrainOptions
from revit.common.system.distributed import DistributedContext
from revit.common.system.errors import UserError
from revit.common.training.parallel.backends import check_training

CPU = torch.device("cpu")


def check(section: str, train: TrainOptions, processes: int, **parallel) -> None:
    options = ParallelOptions.model_validate(parallel)
    check_training(section, options, train, nn.Linear(2, 2), CPU, "float32", DistributedContext(0, processes, 0))


def test_what_fits_is_not_refused(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"train_batch_size": 16, "gradient_accumulation_steps": 2}))
    train = TrainOptions(batch_size=4, effective_batch=16)
    check("train", train, 1)
    check("train", train, 2, deepspeed_config=path)
    check("train", train, 2, backend="replicas")


def test_contradictions_name_the_keys_of_their_training(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"train_batch_size": 8, "optimizer": {"type": "Adam"}, "scheduler": {"type": "X"}}))
    with pytest.raises(UserError) as raised:
        check("assigner.train", TrainOptions(batch_size=4, effective_batch=16), 2, deepspeed_config=path)
    for expected in (
        "train_batch_size: 8 in the file, 16 here by assigner.train.effective_batch",
        'optimizer.type: "Adam" in the file, "SGD" here by assigner.train.optim',
        "the learning rate follows assigner.train.schedule",
    ):
        assert expected in str(raised.value)


def test_what_only_the_batch_size_governs_is_not_laid_to_effective_batch(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"train_batch_size": 7, "gradient_accumulation_steps": 3}))
    with pytest.raises(UserError) as raised:
        check("assigner.train", TrainOptions(batch_size=4), 2, deepspeed_config=path)
    for expected in (
        "train_batch_size: 7 in the file, 8 here by assigner.train.batch_size times the processes",
        "gradient_accumulation_steps: 3 in the file, 1 here by default, as assigner.train.effective_batch is not given",
    ):
        assert expected in str(raised.value)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"zero_optimization": {"stge": 1}}, "zero_optimization.stge: extra inputs are not permitted, found 1"),
        ({"zero_optimization": {"reduce_bucket_size": "many"}}, "zero_optimization.reduce_bucket_size: input should be"),
        ({"zero_optimization": {"offload_param": {"ratio": "x"}}}, "zero_optimization.offload_param.ratio: extra inputs are"),
        ({"comms_logger": {"enabled": "perhaps"}}, "comms_logger.enabled: input should be"),
        ({"sparse_attention": {"mode": "none such"}}, "Sparse Attention has been removed"),
    ],
)  # fmt: skip
def test_a_slip_in_the_file_is_one_line_before_any_training(tmp_path, theirs, said):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(theirs))
    parallel = {"zero_stage": 3, "offload": "parameters"}
    with pytest.raises(UserError) as raised:
        check("train", TrainOptions(batch_size=4), 2, deepspeed_config=path, **parallel)
    message = str(raised.value)
    assert said in message
    assert message.startswith("DeepSpeed refuses its settings: ")
    assert message.endswith(f"See {path}.")
    assert "\n" not in message
    assert "http" not in message


def remarks(processes: int, **parallel) -> list[str]:
    options = ParallelOptions.model_validate(parallel)
    train = TrainOptions(batch_size=4)
    return check_training("train", options, train, nn.Linear(2, 2), CPU, "float32", DistributedContext(0, processes, 0))


def test_keys_that_the_backend_has_no_use_for_are_returned_in_words(tmp_path):
    (tmp_path / "ds.json").write_text("{}")
    (said,) = remarks(1, zero_stage=2, offload="optimizer", deepspeed_config=tmp_path / "ds.json")
    assert said == (
        "parallel.zero_stage and parallel.offload and parallel.deepspeed_config have no effect: one process trains by plain "
        "PyTorch; parallel.backend=deepspeed would use them"
    )
    assert "parallel.zero_stage has no effect" in remarks(1, zero_stage=1)[0]  # given, though it is the default
    assert "replicas split nothing" in remarks(2, zero_stage=3, backend="replicas")[0]
    assert "parallel.replicas has no effect" in remarks(2, replicas={"ranks_per_group": 2})[0]
    assert remarks(1) == remarks(1, offload="none", deepspeed_config=None) == remarks(2, zero_stage=2) == []


@pytest.mark.parametrize(
    ("processes", "parallel", "part"),
    [
        (3, {}, "assigner.train: effective_batch 16 is not a multiple of 12"),
        (2, {"backend": "local"}, "local, which is one process, but 2 were started"),
        (1, {"backend": "replicas"}, "wants several processes"),
    ],
)
def test_numbers_of_processes_that_do_not_fit_are_refused(processes, parallel, part):
    with pytest.raises(UserError, match=part):
        check("assigner.train", TrainOptions(batch_size=4, effective_batch=16), processes, **parallel)
