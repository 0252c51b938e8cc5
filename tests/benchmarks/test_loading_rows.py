"""Rows of loading.py: both ratios by name, and the one by processor time is what the target is compared with."""

from __future__ import annotations

import json

from loading import target_row
from made_tables.targets import TARGET_KEYS, targets


def test_rows_say_which_ratio_is_which(tmp_path):
    where = {"work": "8 frames", "runs": 5, "command": "python loading.py", "machine": "EPYC"}
    rows = [
        {**where, **target_row("bare", (1.3, 1.45, 1.5), (1.0, 1.1, 1.2))},
        {**where, **target_row("bare", (1.0, 1.15, 1.2), (1.3, 1.45, 1.5))},
    ]
    assert all(set(TARGET_KEYS) <= row.keys() for row in rows)
    assert rows[0]["clock"] == {"measured": 1.1, "spread": [1.0, 1.2]}
    (tmp_path / "targets.json").write_text(json.dumps(rows))
    first, second = [
        line for line in (targets(tmp_path / "targets.json") or "").splitlines() if "8 frames" in line
    ]
    measured = "1.45 times by processor time, 1.10 by the clock"
    assert f"{measured} (1.30 to 1.50, by the clock 1.00 to 1.20 in 5 runs) | yes" in first
    assert "| no" in second
