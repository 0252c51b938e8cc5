"""Rows that differ make columns, what is the same stands below, and peers are compared with ours round by round."""

from __future__ import annotations

import json

from tables import main, markdown


def timed(name, dtype, round_ms, **more):
    row = {"name": name, "config": "a", "grid": "4x4", "dtype": dtype, "compiled": False, "batch": 1}
    row |= {"device": "cpu", "per_second": 1000 / round_ms[0], "round_ms": round_ms}
    return row | more


def test_constants_stand_below_and_lists_are_left_out():
    text = markdown([{"a": 1.23456, "b": "x", "c": [1]}, {"a": 12345.6, "b": "x", "d": None}])
    assert text == "| a |\n| --- |\n| 1.235 |\n| 12,346 |\n\nb x\n"


def test_the_fastest_of_ours_counts_and_no_other_work_does(tmp_path, capsys):
    rows = [
        timed("ours", "bfloat16", [100.0, 50.0, 125.0]),
        timed("ours, served", "float32", [400.0] * 3),
        timed("ours", "float32", [1.0] * 3, batch=4),
        timed("peer", "float32", [300.0, 250.0, 250.0]),
    ]
    path = tmp_path / "speed.json"
    path.write_text(json.dumps(rows))
    assert main([str(path)]) == 0
    assert "3.00 times as fast in bfloat16 (2.00 to 5.00)" in capsys.readouterr().out


def test_a_report_and_mistakes(tmp_path, capsys):
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"fixed": [{"grid": "4x4", "top1": 50.0}], "oracle": {"top1": 60.0}}))
    assert main([str(path)]) == 0
    assert "| oracle | 60 |" in capsys.readouterr().out
    path.write_text("{}")
    assert main([str(path)]) == 2
    assert main([str(tmp_path / "none.json")]) == 2
