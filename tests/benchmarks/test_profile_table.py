"""The table of a block's parts: what was measured, the block last, and nothing where a part has no products."""

from __future__ import annotations

import json

from made_tables.profile import blocks


def row(part, ms, way="packed", batch=1, rate=None, block="divided", dtype="bfloat16"):
    shares = {"ms": ms, "of_block": ms / 10, "of_product_rate": rate}
    return {
        "block": block,
        "dtype": dtype,
        "part": part,
        "way": way,
        "batch": batch,
        "machine": "a CPU",
        **shares,
    }


def test_parts_of_the_divided_block_in_bfloat16(tmp_path):
    path = tmp_path / "blocks.json"
    rows = [row("block", 10.0, rate=0.9), row("MLP", 6.0, rate=1.0), row("copies", 0.25)]
    others = [row("MLP", 99.0, block="deit"), row("MLP", 99.0, dtype="float32")]
    path.write_text(json.dumps([*rows, *others, row("MLP", 7.0, "plain", 4, 0.8)]))
    lines = blocks(path).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["MLP", "copies", "block"]
    assert "6.0 ms, 60.0%, 100% of the rate" in lines[2]
    assert "7.0 ms, 70.0%, 80% of the rate" in lines[2]
    assert "0.2 ms, 2.5% |" in lines[3]
    assert "99" not in "".join(lines)
    assert "on a CPU" in lines[-1]


def test_without_measurements_the_table_stays(tmp_path, capsys):
    assert blocks(tmp_path / "blocks.json") is None
    assert "benchmarks/blocks.py" in capsys.readouterr().err
