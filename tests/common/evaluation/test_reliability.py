"""Expected calibration error, by hand and by its limits."""

from __future__ import annotations

import pytest
import torch

from revit.common.evaluation.reliability import reliability


def test_by_hand():
    probabilities = torch.tensor([0.05, 0.15, 0.18, 0.95, 0.91])
    right = torch.tensor([False, True, False, True, True])
    found = reliability(probabilities, right, num_bins=10)
    # bins: one answer 0.05 / 0; two 0.165 / 0.5; two 0.93 / 1
    assert found["ece"] == pytest.approx(100 * (1 * 0.05 + 2 * (0.5 - 0.165) + 2 * (1 - 0.93)) / 5, abs=1e-5)
    assert found["bias"] == pytest.approx(100 * ((0.05 + 0.33 + 1.86) - 3) / 5, abs=1e-5)
    assert [(one["from"], one["answers"]) for one in found["bins"]] == [(0.0, 1), (0.1, 2), (0.9, 2)]
    assert found["bins"][1]["probability"] == pytest.approx(16.5, abs=1e-5)
    assert found["bins"][1]["right"] == pytest.approx(50)


def test_a_bin_contains_its_upper_end():
    found = reliability(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 1.0, 1.0]), num_bins=2)
    assert [one["answers"] for one in found["bins"]] == [2, 1]


def test_answers_that_keep_their_word():
    """Drawn to be right as often as they say: an error only by chance. Surer ones are too sure by as much."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(200_000, generator=generator)
    right = torch.rand(200_000, generator=generator) < probabilities
    assert reliability(probabilities, right)["ece"] < 0.6
    surer = reliability((probabilities + 0.1).clamp(max=1), right)
    assert surer["ece"] == pytest.approx(surer["bias"], abs=0.2)
    assert surer["bias"] == pytest.approx(9.5, abs=0.3)
