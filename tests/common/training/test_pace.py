"""The estimate that follows the first batches."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import write_config

from revit.common.config.load import load
from revit.common.training import pace
from revit.common.training.meter import Meter
from revit.common.training.outlook import FORWARD, looks_beside, seconds_beside
from revit.image.modality import ImageModality
from revit.image.options import ImageRun


def lines_of(seconds: list[float], waited: float = 0.0, epoch: int = 1000, rest=None) -> list[tuple[int, str]]:
    """What is said after which batch, where the batches take these seconds and an epoch is so many of them."""
    found: list[tuple[int, str]] = []
    number, meter = 0, Meter()
    estimate = pace.FirstEstimate("model", lambda text: found.append((number, text)), rest)
    for number, one in enumerate(seconds, 1):
        if number % epoch == 1:
            meter = Meter()
        meter.seconds += one
        meter.data_seconds += waited
        estimate.batch(meter, 4, len(seconds) - number)
    return found


def test_it_is_said_once_and_the_slow_first_batch_does_not_count():
    (said,) = lines_of([30.0, *[1.0] * 99])
    assert said == (7, "model: about 0:01:33 to go, by the pace of the first 7 batches")


@pytest.mark.parametrize("epoch", [2, 3])
def test_epochs_of_a_few_batches_are_no_obstacle(epoch):
    assert lines_of([30.0, *[1.0] * 99], epoch=epoch) == lines_of([30.0, *[1.0] * 99])


def test_what_is_over_in_a_moment_needs_no_estimate():
    assert lines_of([0.01] * 100) == []


def test_slow_batches_are_said_after_the_first_one(monkeypatch):
    monkeypatch.setattr(pace, "LATEST_S", 0.0)  # as where the first batch alone took longer
    (said,) = lines_of([40.0, *[30.0] * 9])
    assert said == (1, "model: about 0:06:00 to go, by the pace of the first batch")


def test_the_whole_recipe_is_the_training_and_what_follows():
    rest = lambda data, step: 1000 * data + 100 * step  # noqa: E731
    ((_, said),) = lines_of([1.0] * 17, waited=0.25, rest=rest)
    # A sample of the 4: 0.0625 s waited for, 0.1875 s trained on.
    assert said.endswith(f"; the whole recipe about 0:01:{round(10 + 62.5 + 18.75) - 60:02d}")


def test_every_look_at_a_sample_is_counted(tmp_path: Path):
    path = write_config(tmp_path, 48, 16, 20)
    modality = ImageModality()
    options = load(ImageRun, path, ["run.evaluate_every=2", "train.schedule.epochs=6", "run.speed_seconds=3"])
    modality.make_data(options)
    # Val after epochs 2, 4 and 6; labels of 48; the assigner's one epoch of them; calibration on val; the test.
    assert looks_beside(options, modality) == 3 * 16 + 48 + 48 + 16 + 20
    assert seconds_beside(options, modality, 0.1, 0.6) == pytest.approx(180 * (0.1 + 0.6 * FORWARD) + 3)
    plain = load(ImageRun, path, ["model.grids=[6x6]", "run.speed_seconds=0"])
    assert looks_beside(plain, modality) == 20
