"""Checkerboard trains from its configuration, and what it says it spends is what is counted."""

from __future__ import annotations

import json
from pathlib import Path

import train_net
from checkerboard import METHOD

from revit.common.methods.base import added

CONFIG = Path(__file__).with_name("checkerboard.yaml")


def test_it_trains_and_costs_less(tmp_path):
    gmacs = {}
    for before in (1, 2):  # of two blocks: half of the tokens in the second one, and all in both
        run = tmp_path / str(before)
        overrides = [f"run.dir={run}", f"methods.checkerboard.before={before}"]
        with added("checkerboard", METHOD):
            assert train_net.main(["--cfg", str(CONFIG), *overrides]) == 0
        report = json.loads((run / "report.json").read_text())
        assert report["samples"] == {"evaluated": 64, "failed": 0}
        gmacs[before] = report["fixed"][0]["gmacs"]
    assert 0.6 < gmacs[1] / gmacs[2] < 0.8
