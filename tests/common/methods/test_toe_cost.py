"""ToE's cost of training reproduces the paper's tables, which count as thop does."""

from __future__ import annotations

import json

import flops
import pytest
import torch

from revit.common.costs.flops import count
from revit.common.methods.toe import ToE, ToEOptions
from revit.image.models.variants import VARIANTS
from revit.video.models.timesformer import TimeSformer


@pytest.mark.parametrize(
    ("name", "rate", "whole", "toe"),
    [
        ("deit_tiny", 0.5, 3302, 2569),
        ("deit_small", 0.5, 13029, 10099),
        ("deit_base", 0.5, 51759, 40039),
        ("deit_base", 0.4, 51759, 37567),
        ("lvvit_t", 0.4, 8168, 7009),
        ("lvvit_s", 0.4, 18721, 14681),
        ("lvvit_m", 0.4, 36586, 27493),
    ],
)
def test_the_papers_tables(name, rate, whole, toe):
    """Tables 2 and 3, in the digits that the published code counts."""
    with torch.device("meta"):
        model = VARIANTS[name].build(img_size=224, num_classes=1000)
    ToE(ToEOptions(first_rate=rate, rounding="published")).attach(model)
    rows = ToE(ToEOptions()).cost_rows(model, (1, 3, 224, 224))
    assert [round(row["gmacs"]) for row in rows if "thop" in row["rule"]] == [whole, toe]
    honest = [row["gmacs"] for row in rows if "attention included" in row["rule"]]
    assert honest[0] > whole
    assert toe < honest[1] < honest[0]
    assert model.reducer.evaluation_stage is None  # as it was


def test_the_honest_count_is_that_of_flops_and_the_papers_formulas_keep_a_token_more():
    with torch.device("meta"):
        model = VARIANTS["deit_base"].build(img_size=224, num_classes=1000)
    plain = count(model, (1, 3, 224, 224), model.grids[0]).gmacs
    ToE(ToEOptions(first_rate=0.4)).attach(model)
    rows = ToE(ToEOptions()).cost_rows(model, (1, 3, 224, 224))
    assert rows[1]["gmacs"] == pytest.approx(3 * 1024 * plain)
    assert round(rows[2]["gmacs"]) == 37647


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
def test_three_counts_agree_on_clips_at_every_stage(attention):
    """`count` fails where they do not."""
    model = TimeSformer(32, [8, 4], 4, 5, 24, 3, 2, attention=attention)
    ToE(ToEOptions(before_block=2)).attach(model)
    rows = ToE(ToEOptions()).cost_rows(model, (1, 3, 4, 32, 32))
    assert len(rows) == 8
    by_name = {(row["grid"], row["rule"][:4]): row["gmacs"] for row in rows}
    for grid in ("8x8", "4x4"):
        assert by_name[f"{grid} training", "thop"] < by_name[f"{grid} training, all tokens", "thop"]


@pytest.mark.parametrize("name", ["deit_tiny_distilled", "lvvit_t"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_three_counts_agree_on_sparse_evaluation(name, stage):
    model = VARIANTS[name].build(img_size=64, num_classes=7, embed_dim=24, depth=3, num_heads=2, grids=["8x8"])
    plain = count(model, (1, 3, 64, 64), model.grids[0]).gmacs
    ToE(ToEOptions(evaluation_stage=stage)).attach(model)
    sparse = count(model, (1, 3, 64, 64), model.grids[0]).gmacs
    assert sparse == pytest.approx(plain) if stage == 3 else sparse < plain


def test_flops_adds_the_rows(tmp_path, capsys):
    out = tmp_path / "flops.json"
    assert flops.main(["--cfg", "configs/image/toe_deit_small_r0.5.yaml", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    contract = {"config", "grid", "params", "gmacs", "gflops", "views", "gmacs_total"}
    assert all(contract <= set(row) for row in rows)
    assert rows[0]["grid"] == "14x14"
    assert "rule" not in rows[0]
    assert [round(row["gmacs"]) for row in rows[1:]] == [13029, 14157, 10099, 10842]
    assert "thop" in capsys.readouterr().out
