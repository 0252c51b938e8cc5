"""The speed of a report: every length and the assigner's mixture are called for what they are; no test looks at times."""

from __future__ import annotations

import pytest
import torch

from revit.common.methods.revit.adaptive import AdaptiveClassifier, TokenLengthAssigner
from revit.common.report.schema import Speed
from revit.common.timing.clock import Times
from revit.common.timing.speed import _Case, _mixtures, measure_speed
from revit.video.models.timesformer import TimeSformer

SHAPE = (1, 3, 2, 32, 32)


@pytest.fixture
def classifier():
    model = TimeSformer(32, (4, 2), num_frames=2, embed_dim=16, depth=1, num_heads=2, num_classes=5)
    return AdaptiveClassifier(model, TokenLengthAssigner(2, size=32, width=0.25))


@pytest.mark.parametrize("shares", [None, {"4x4": 0.25, "2x2": 0.75}, {"4x4": 0.0, "2x2": 1.0}])
def test_rows(classifier, shares):
    speed = measure_speed(classifier, SHAPE, torch.device("cpu"), shares=shares, seconds=0.0)
    Speed.model_validate(speed)
    grids = [row["grid"] for row in speed["rows"] if row["batch"] == 1]
    assert grids == ["4x4", "2x2", *(["adaptive"] if shares else [])]
    assert speed["inputs"] == "clips"
    for row in speed["rows"]:
        assert 0 < row["ms_p50"] <= row["ms_p95"]
        assert row["peak_memory_mb"] > 0


def test_without_an_assigner_nothing_is_adaptive(classifier):
    plain = AdaptiveClassifier(classifier.model)
    speed = measure_speed(plain, SHAPE, torch.device("cpu"), shares={"4x4": 1.0}, seconds=0.0)
    assert {row["grid"] for row in speed["rows"]} == {"4x4", "2x2"}


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.1, 0.6, 0.3), (1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("batch", [1, 4, 32])
def test_mixtures_have_the_grids_by_their_shares(shares, batch):
    mixtures = _mixtures(shares, batch)
    assert sum(share for _, share in mixtures) == pytest.approx(1)
    assert all(len(grid_index) == batch for grid_index, _ in mixtures)
    for index, wanted in enumerate(shares):
        found = sum(share * float((chosen == index).double().mean()) for chosen, share in mixtures)
        assert found == pytest.approx(wanted, abs=1e-9 if batch == 1 else 1 / batch)


@pytest.mark.parametrize(("share", "slowest"), [(0.9, 10.0), (0.96, 1.0)])
def test_a_mixture_weighs_calls_by_their_shares(share, slowest):
    """Some of the calls take 10 s, the others 1 s, however often each was timed."""
    case = _Case("adaptive", 1, [], [share, 1 - share], [Times([1.0, 1.0, 1.0]), Times([10.0] * 50)])
    row = case.row()
    assert 1 / row["per_second"] == pytest.approx(share + 10 * (1 - share))
    assert row["ms_p50"] == 1e3
    assert row["ms_p95"] == 1e3 * slowest
