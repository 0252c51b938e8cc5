"""What was to be reached: ratios round by round, the limit where one is missed, and what nobody measured yet."""

from __future__ import annotations

import json

import pytest
from made_tables.targets import TARGET_KEYS
from targets import GPU, TARGETS, Rate, Ratio, main, target_rows


def timed(
    name, dtype, ms, share, config="timesformer_8x224", batch=1, compiled=False, rounds=None, device="cpu (X)"
):
    return {
        "name": name,
        "config": config,
        "grid": "14x14",
        "dtype": dtype,
        "compiled": compiled,
        "batch": batch,
        "per_second": 1000 * batch / ms,
        "ms_p50": ms,
        "round_ms": [ms] * 5 if rounds is None else rounds,
        "fraction_of_peak": share,
        "device": device,
        "instructions": "avx2",
        "command": "python tools/throughput.py",
    }


RATIO = Ratio("a", "timesformer_8x224", "bfloat16", 1, 4.0, "peer", "float32", False)


def test_a_ratio_is_formed_round_by_round():
    ours = timed("ours, served", "bfloat16", 100.0, 0.8, rounds=[100.0, 50.0, 125.0])
    peer = timed("peer", "float32", 300.0, 0.9, rounds=[300.0, 250.0, 250.0])
    row = RATIO.row([ours, peer])
    assert (row["measured"], row["spread"], row["runs"]) == ("3.00 times", "2.00 to 5.00 times", "3 rounds")
    assert row["work"] == "a, ours, served, eager"


def test_what_misses_its_target_says_what_the_machine_allows():
    ours, peer = timed("ours", "bfloat16", 100.0, 0.8), timed("peer", "float32", 300.0, 0.9)
    why = RATIO.row([ours, peer])["why"]
    assert "at 90% of the rate of float32" in why
    assert "it would be 3.75 times" in why  # 3 times at 0.8 of the rate
    fast = timed("ours", "bfloat16", 60.0, 0.9)
    assert "why" not in RATIO.row([fast, peer])


def test_the_fastest_of_ours_counts_and_no_other_work_does():
    peer = timed("peer", "float32", 300.0, 0.9)
    others = [
        timed("ours", "float32", 1.0, 0.8),
        timed("ours", "bfloat16", 1.0, 0.8, batch=4),
        timed("ours", "bfloat16", 1.0, 0.8, config="another"),
        timed("ours", "bfloat16", 1.0, 0.8) | {"grid": "7x7"},
        timed("ours", "bfloat16", 1.0, 0.8, device=GPU),
    ]
    ours = [
        timed("ours", "bfloat16", 100.0, 0.8),
        timed("ours, served", "bfloat16", 75.0, 0.8, compiled=True),
    ]
    row = RATIO.row([peer, *others, *ours])
    assert row["measured"] == "4.00 times"
    assert row["work"].endswith("ours, served, compiled")
    assert RATIO.row([peer, *others]) is None
    assert RATIO.row(ours) is None


def test_a_share_of_the_rate_is_taken_of_every_round():
    row = Rate("a", "timesformer_8x224", "bfloat16", 1, 0.7).row(
        [timed("ours", "bfloat16", 100.0, 0.8, rounds=[100.0, 80.0, 160.0])]
    )
    assert (row["measured"], row["spread"]) == ("80 %", "50 to 100 %")


def test_rows_of_before_rounds_were_written_are_left_out():
    old = timed("ours", "bfloat16", 100.0, 0.8)
    del old["round_ms"]
    assert all(row["measured"] is None for row in target_rows([old], []))


def test_every_row_fits_the_table_and_gpus_are_named_before_they_are_seen():
    speed = [
        timed(name, dtype, 100.0, 0.5, config, batch, compiled)
        for name in ("ours", "timm", "huggingface")
        for dtype in ("float32", "bfloat16")
        for config, batch in (("timesformer_8x224", 1), ("timesformer_8x224", 4), ("deit_small", 32))
        for compiled in (False, True)
    ]
    written = [dict.fromkeys(TARGET_KEYS, "1")]
    rows = target_rows(speed, written)
    assert all(set(TARGET_KEYS) <= set(row) for row in rows)
    assert [row["measured"] for row in rows[: len(TARGETS)]] == ["50 %"] * 2 + ["1.00 times"] * 5
    assert [row["measured"] for row in rows[len(TARGETS) :]] == ["1", None, None]
    seen = timed("ours", "bfloat16", 10.0, 0.6, batch=32, device=GPU)
    assert [row["measured"] for row in target_rows([seen], [])] == ["60 %", None]


def test_command_line(tmp_path, capsys):
    assert main(["--runs", str(tmp_path)]) == 0
    assert not (tmp_path / "targets.json").exists()
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "a.json").write_text(json.dumps([dict.fromkeys(TARGET_KEYS, "2 times")]))
    assert main(["--runs", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "targets.json").read_text())[0]["measured"] == "2 times"
    assert "2 times" in capsys.readouterr().out
    (tmp_path / "targets" / "b.json").write_text("{}")
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main(["--runs", str(tmp_path)]))
    assert stopped.value.code == 2
