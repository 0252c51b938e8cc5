"""benchmarks/blocks.py: parts add up to the block, its products are those of the closed formula, strangers are refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import blocks
import pytest
import torch
from blocks import Marked, main, ways

from revit.common.models.grid import TokenGrid
from revit.common.models.layers.block import Block
from revit.common.models.reducer import TokenLayout
from revit.common.serving.packed import can_pack
from revit.video.models.timesformer import DividedBlock

GRID = TokenGrid(3, 2)
D, T, S = 16, 4, 6


@pytest.mark.parametrize("way", ["plain", "packed"])
@torch.inference_mode()
def test_products_are_those_of_the_formula_and_copies_are_seen(way):
    block = DividedBlock(D, 2, (GRID,)).eval()
    tokens = torch.randn(2, 1 + S * T, D)
    layout = TokenLayout(GRID, num_prefix=1, num_positions=S, num_frames=T)
    marked = Marked(ways(block, "float32")[way])
    times, copies = marked(tokens, layout)
    patches, frames, everything = 2 * S * T, 2 * T * (1 + S), 2 * (1 + S * T)
    assert dict(marked.macs) == {
        "qkv": (patches + frames) * 3 * D * D,
        "attention over time": 2 * patches * T * D,
        "attention over space": 2 * frames * (1 + S) * D,
        # Packing joins the projection over time and temporal_fc.
        "projections": ((2 if way == "plain" else 1) * patches + frames) * D * D,
        "MLP": everything * 8 * D * D,
    }
    assert set(times) >= {*marked.macs, "norms", "copies", blocks.REST}
    assert copies["cat"] == 2
    assert torch.allclose(marked.block(tokens, layout), block(tokens, layout), atol=1e-5)


def test_rows_of_every_way(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(blocks, "GRID", GRID)
    monkeypatch.setattr(blocks, "BLOCKS", {"divided": (DividedBlock, D, 2, T), "deit": (Block, D, 2, 1)})
    # Its products of two thousand numbers squared would take nearly all of the time.
    yardstick = SimpleNamespace(measure=lambda: None, operations_per_second=1e9)
    monkeypatch.setattr(blocks, "Yardstick", lambda *_: yardstick)
    out = tmp_path / "blocks.json"
    dtypes = ["float32", "bfloat16"] if can_pack(torch.device("cpu"), torch.bfloat16) else ["float32"]
    arguments = ["--rounds", "1", "--batches", "1,2", "--dtypes", ",".join(dtypes), "--json", str(out)]
    assert main([*arguments, "--threads", str(torch.get_num_threads())]) == 0
    rows = json.loads(out.read_text())
    cases = {(row["block"], row["way"], row["dtype"], row["batch"]) for row in rows}
    assert len(cases) == 2 * 2 * len(dtypes) * 2
    for case in cases:
        of_case = [row for row in rows if (row["block"], row["way"], row["dtype"], row["batch"]) == case]
        *parts, whole = of_case
        assert whole["part"] == "block"
        assert sum(part["ms"] for part in parts) == pytest.approx(whole["ms"], rel=1e-6)
        assert whole["of_product_rate"] > 0
        assert "copy_" in whole["copies"] or "cat" in whole["copies"] or case[0] == "deit"
    assert "divided, float32, batch 2, packed" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--blocks", "x"], ["--dtypes", "float8"]])
def test_strangers_are_refused(arguments, capsys):
    assert main(arguments) == 2
    assert "choose from" in capsys.readouterr().err
