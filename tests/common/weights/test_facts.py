"""Weights come with what people wrote beside them; nonsense there is noted, and weighs nothing."""

from __future__ import annotations

import pytest

from revit.common.weights.source import believable


def test_what_can_be_true_is_taken():
    written = {"num_heads": 12, "mean": [0.4, 0.5, 0.6], "img_size": [224, 160], "interpolation": "bicubic"}
    facts, notes = believable(written)
    assert facts == {"num_heads": 12, "mean": (0.4, 0.5, 0.6), "img_size": (224, 160), "interpolation": "bicubic"}
    assert notes == ()


@pytest.mark.parametrize("mean", [0.45, [0.45]])
def test_one_number_is_that_of_every_channel(mean):
    assert believable({"mean": mean, "std": 0.2})[0] == {"mean": (0.45,) * 3, "std": (0.2,) * 3}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("std", [0, 0, 0]),
        ("mean", [0.4, float("nan"), 0.4]),
        ("mean", [0.4, 0.5]),
        ("mean", []),
        ("sampling_rate", "fast"),
        ("sampling_rate", 0),
        ("num_heads", {"a": 1}),
        ("num_frames", "many"),
        ("interpolation", "magic"),
    ],
)
def test_what_cannot_be_is_noted_and_not_used(key, value):
    facts, (note,) = believable({key: value})
    assert facts == {}
    assert f"its {key} is written as {value!r}" in note


def test_words_of_another_version_are_noted():
    assert believable({"num_arms": 2}) == ({}, ("its num_arms is not known here and was not used",))
