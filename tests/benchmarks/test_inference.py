"""Saved multiply-accumulates against saved time: every clip is answered at the length it was dealt; no test looks at the time."""

from __future__ import annotations

import argparse
import json

import inference
import pytest
import torch
from inference import DealtLengths, Slice, promised, shares_for, together
from torch import nn

from revit.common.costs.flops import Costs
from revit.common.methods.revit.adaptive import TokenLengthAssigner
from revit.common.timing.cases import deal_grids
from revit.common.timing.clock import SIDES
from revit.video.models.timesformer import TimeSformer

KEYS = ["work", "target", "measured", "spread", "runs"]
SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 5}


def test_an_assigner_s_answer_is_replaced_after_it_was_computed():
    seen = []

    class Says(nn.Module):
        def forward(self, inputs):
            seen.append(len(inputs))
            return torch.zeros(len(inputs), 3)

    dealt = DealtLengths(Says(), [2, 0, 1, 1])
    found = [dealt(torch.zeros(number, 3)).argmax(dim=1).tolist() for number in (1, 3, 2)]
    assert found == [[2], [0, 1, 1], [2, 0]]
    assert seen == [1, 3, 2]


@pytest.mark.parametrize("target", [100.0, 130.0, 190.0])
def test_shares_cost_what_is_asked(target):
    costs = Costs({"14x14": 196.0, "10x10": 100.0, "7x7": 49.0}, 0.5, 0)
    shares = shares_for(costs, target)
    assert sum(shares) == pytest.approx(1)
    assert shares[1] == shares[2]
    assert costs.mean(dict(zip(costs.grids, shares))) == pytest.approx(target)
    lengths = deal_grids(shares, 1000, seed=3).tolist()
    assert 1 - promised(costs, lengths) == pytest.approx(target / 196, abs=2e-3)
    with pytest.raises(ValueError, match=r"between 75 and 196\.5 is possible"):
        shares_for(costs, 60.0)


def test_lengths_are_dealt_in_whole_inputs():
    assert sorted(deal_grids([0.5, 0.3, 0.2], 10).tolist()) == [0] * 5 + [1] * 3 + [2] * 2
    assert sorted(deal_grids([0.45, 0.275, 0.275], 2).tolist()) == [0, 1]
    assert not torch.equal(deal_grids([0.5, 0.5], 20), deal_grids([0.5, 0.5], 20, seed=1))


def test_slices_together():
    all_of_them = together([Slice(1, 0.2, 10.0, 8.0), Slice(3, 0.4, 30.0, 20.0)])
    assert all_of_them == Slice(4, pytest.approx(0.35), 40.0, 28.0)
    assert all_of_them.saved == pytest.approx(0.3)


def test_what_is_the_same_at_every_length_eats_the_promise():
    # 100 ms of every clip are not the model's: of the other 400, half was promised and saved.
    every = Slice(10, 0.5, 5.0, 3.0)
    assert "500 ms at the longest grid and 300 ms adaptively, as if 100 ms" in every.lost
    assert "as if 0 ms" in Slice(10, 0.5, 4.0, 2.0).lost


TINY = [
    "data.frames={num_frames: 2, sampling_rate: 4}",
    "data.pixels={crop_size: 64, jitter_min: 64, jitter_max: 70}",
    "data.loading.decode_timeout_seconds=0",
    "model={grids: [8x8, 4x4, 2x2], num_classes: 5, embed_dim: 32, depth: 1, num_heads: 2}",
    "assigner={size: 32, num_frames: 1, width: 0.25}",
]


def test_from_files_to_labels(capsys):
    values = argparse.Namespace(dtype="float32", clips=7, runs=2)
    row = inference.files(values, torch.device("cpu"), TINY, num_files=2, num_frames=12, width=96, height=80)
    assert list(row)[:5] == KEYS
    assert row["runs"] == 2
    assert 0 < row["promised"] < 0.5
    assert all(len(slice_) == 2 and min(slice_) >= 0 for slice_ in row["seconds"])
    float(row["measured"].split()[0])
    said = capsys.readouterr().out
    assert "slice 1, 3 clips" in said
    assert "slice 2, 4 clips" in said
    assert "all clips, 7 clips" in said


def test_a_clip_without_an_answer_ends_the_run(tmp_path):
    classifier, costs = inference.untrained(*inference.load_run(inference.CONFIG, TINY))
    (tmp_path / "a.mp4").write_bytes(b"no clip")
    serving = {"device": "cpu", "dtype": "float32", "compile": "eager"}
    target = 0.7 * costs.grids["8x8"]
    with pytest.raises(RuntimeError, match=r"a\.mp4 at 8x8 became .*error="):
        inference.stream(classifier, costs, [str(tmp_path / "a.mp4")], target, 4, 1, serving)


def test_batch_and_adaptive_write_rows(tmp_path, monkeypatch):
    monkeypatch.setitem(SIDES, "cpu", 64)
    monkeypatch.setattr(inference, "SHAPE", (1, 3, 2, 64, 64))
    monkeypatch.setattr(inference, "TimeSformer", lambda grids=(8,): TimeSformer(64, grids, num_frames=2, **SMALL))
    monkeypatch.setattr(inference, "GRIDS", (8, 4, 2))
    monkeypatch.delitem(inference.PARTS, "files")
    monkeypatch.setattr(inference, "TokenLengthAssigner", lambda num: TokenLengthAssigner(num, size=32, width=0.25))
    out = tmp_path / "rows.json"
    arguments = ["--dtype", "float32", "--rounds", "2", "--clips", "20", "--device", "cpu"]
    assert inference.main([*arguments, "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    command = "python benchmarks/inference.py --dtype float32 --rounds 2 --clips 20 --device cpu --json "
    assert all(row["command"].startswith(command) for row in rows)
    for row in rows:
        assert set(KEYS) < set(row)
        assert row["machine"].startswith("cpu (")
        float(row["measured"].split()[0])
    assert rows[0]["target"] == "at most 1.2 times"
    assert rows[1]["runs"] == 2  # of 16 clips and of 4
