"""Training by DeepSpeed equals training in one process, whatever is split over the ranks; states go on anywhere.

Two processes and then three do everything (deepspeed_runs.py), since starting takes longer than training; the tests read
what they found.
"""

from __future__ import annotations

import json
from pathlib import Path

import deepspeed_runs
import pytest
from ranks import run_ranks

STAGES, PARTLY = (0, 1, 2, 3), (0, 2, 3)
EXACT = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("deepspeed")


def found(work: str, size: int, folder: Path) -> dict[str, float]:
    run_ranks(size, deepspeed_runs.run, work, folder, folder=folder)
    return json.loads((folder / f"{work}.json").read_text())


@pytest.fixture(scope="module")
def trained(folder) -> dict[str, float]:
    return found("train", 2, folder)


@pytest.fixture(scope="module")
def resumed(folder, trained) -> dict[str, float]:
    return found("resume", 3, folder)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_algorithm_1_equals_one_process_after_20_updates(trained, optimizer, stage):
    """SGD accumulates two batches and clips, AdamW recomputes its blocks; weights and the optimiser's state in float32."""
    assert trained[f"{optimizer} {stage} half"] < EXACT
    assert trained[f"{optimizer} {stage} end"] < EXACT
    assert trained[f"{optimizer} {stage} rate"] == 0


@pytest.mark.parametrize(("optimizer", "stage"), [*(("sgd", stage) for stage in STAGES), ("adamw", 1), ("adamw", 3)])
def test_a_state_goes_on_exactly_with_the_same_setting(trained, optimizer, stage):
    assert trained[f"{optimizer} {stage} loaded"] == 0
    assert trained[f"{optimizer} {stage} same"] == 0


@pytest.mark.parametrize("stage", STAGES)
def test_the_whole_network_answers_one_rank_alone(trained, stage):
    assert trained[f"sgd {stage} whole count"] == 0
    assert trained[f"sgd {stage} whole forward"] < EXACT


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_state_of_zero_3_goes_on_in_one_process(trained, optimizer):
    assert trained[f"{optimizer} 3 local"] < EXACT


@pytest.mark.parametrize("way", ["sgd 3 to 1", "sgd local to 2", "adamw 2 to 0", "adamw 1 to 3"])
def test_a_state_of_two_processes_or_one_goes_on_in_three_at_another_stage(resumed, way):
    assert resumed["world"] == 3
    assert resumed[way] < EXACT


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offloading_changes_nothing(trained, stage):
    assert trained[f"offload {stage}"] < EXACT


@pytest.mark.parametrize("stage", PARTLY)
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_low_precision_trains_close_to_float32(trained, dtype, tolerance, stage):
    """The distance is a share of how far the weights moved; weights and state stay float32."""
    assert trained[f"{dtype} {stage} skipped"] == 0
    assert trained[f"{dtype} {stage} finite"] == 0
    assert trained[f"{dtype} {stage} types"] == 0
    assert trained[f"{dtype} {stage} close"] < tolerance


@pytest.mark.parametrize("stage", PARTLY)
def test_an_overflow_is_no_update_and_halves_the_scale(trained, stage):
    for what in ("updated", "moved", "halved", "never trains", "miscounted", "scaler", "kept"):
        assert trained[f"overflow {stage} {what}"] == 0, what


def test_gradients_that_are_not_finite_are_refused_without_a_scale(trained):
    assert "nan is not refused" not in trained
