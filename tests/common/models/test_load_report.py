from __future__ import annotations

import pytest

from revit.common.models.load_report import Change, LoadReport, shorten
from revit.common.system.errors import UserError


def test_names_are_shortened() -> None:
    names = [f"blocks.{number}.attn.qkv.weight" for number in range(12)]
    assert shorten([*names, "head.bias"]) == "blocks.*.attn.qkv.weight (12), head.bias"
    assert shorten([f"part{number}" for number in range(5)], limit=3) == "part0, part1, part2 and 2 more"
    assert shorten(["blocks.3.norm1.bias"]) == "blocks.3.norm1.bias"


def test_everything_is_said() -> None:
    report = LoadReport("weights.pth (image model)", loaded=["a", "b"], remade=["head: 1000 -> 5 classes"])
    report.resized.append(Change("pos_embed", (1, 5, 8), (1, 10, 8), "bicubic"))
    report.derive("time from space", ["blocks.0.temporal_attn.qkv.weight"])
    report.derive("nothing", [])
    report.leave_out("a distillation token", ["dist_token"])
    report.notes.append("mean 0.5")
    text = str(report)
    for part in (
        "weights from weights.pth (image model)",
        "loaded    2 tensors",
        "resized   pos_embed 1x5x8 -> 1x10x8 (bicubic)",
        "derived   1 tensor: time from space",
        "re-made   head: 1000 -> 5 classes",
        "left out  a distillation token: dist_token",
        "note      mean 0.5",
    ):
        assert part in text
    assert "nothing" not in text
    report.check()


def test_silence_is_an_error() -> None:
    report = LoadReport("x.pth", missing=["norm.weight"], unexpected=["gate.0.bias", "gate.1.bias"])
    report.misfits.append(Change("cls_token", (1, 1, 8), (1, 1, 16), "no rule"))
    with pytest.raises(UserError) as error:
        report.check()
    message = str(error.value)
    assert "missing: norm.weight" in message
    assert "no place in the model: gate.*.bias (2)" in message
    assert "cls_token 1x1x8 -> 1x1x16" in message
    assert "unexpected 2 tensors" in str(report)
