"""Costs of configurations as they are shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
from modalities import load_run

from revit.common.modality.costs import cost_rows

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize("name", ["video/own_clips_small", "image/own_pictures_small"])
def test_a_configuration_that_waits_for_its_list_can_be_counted(name, caplog):
    options, modality = load_run(CONFIGS / f"{name}.yaml", [])
    rows = cost_rows("own", options, modality)
    assert [row["grid"] for row in rows] == ["8x8", "4x4", "assigner"]
    assert rows[0]["gmacs"] > rows[1]["gmacs"] > rows[2]["gmacs"]
    assert "head for 2 classes" in caplog.text
