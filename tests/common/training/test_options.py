"""Settings that no run could be meant to have are refused, with what would do."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from revit.common.config.sections import ScheduleOptions
from revit.common.methods.run_options import ModelOptions


@pytest.mark.parametrize("widths", [(), (0, 0, 32), (16, -8)])
def test_a_stem_has_convolutions_and_each_has_channels(widths):
    with pytest.raises(ValidationError, match="stem_widths"):
        ModelOptions(stem_widths=widths)


@pytest.mark.parametrize("milestones", [(5, 3), (11, 11), (0, 5), (-1,)])
def test_milestones_are_epochs_in_rising_order(milestones):
    with pytest.raises(ValidationError, match="from 1 in rising order"):
        ScheduleOptions(milestones=milestones)


def test_milestones_behind_the_end_may_stay_for_a_shorter_trial():
    assert ScheduleOptions(epochs=1).milestones == (11, 14)
    assert ScheduleOptions(milestones=()).milestones == ()
