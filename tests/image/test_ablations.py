"""The rows of ReViT's ablation tables: each configuration says what it should, and runs on the demo's digits."""

from __future__ import annotations

import pytest
import torch
from ablations import CONFIGS, GRIDS, ROWS, on_digits, table

from revit.common.config.load import load
from revit.common.data.batch import Batch
from revit.common.models.grid import TokenGrid
from revit.image.modality import ImageModality
from revit.image.options import ImageRun


def test_every_ablation_has_a_row_with_the_grids_of_its_paper_numbers():
    files = {path.relative_to(CONFIGS).as_posix() for path in (CONFIGS / "ablations").glob("*.yaml")}
    assert files <= {row.config for row in ROWS.values()}
    for row in ROWS.values():
        assert list(load(ImageRun, CONFIGS / row.config).model.grids) == list(row.paper)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains_on_digits(name, tmp_path):
    options = on_digits(name, 3, tmp_path)
    wanted = load(ImageRun, CONFIGS / ROWS[name].config)
    assert (options.run.seed, options.data.demo.seed) == (3, 3)
    assert options.model.positions == wanted.model.positions
    assert options.distill == wanted.distill
    modality = ImageModality()
    model = modality.build_model(options, 10)
    assert [grid.name for grid in model.grids] == [GRIDS[grid] for grid in ROWS[name].paper]
    batch = Batch(torch.zeros(4, 3, 48, 48, dtype=torch.uint8), torch.arange(4), torch.arange(4))
    inputs = torch.randn(4, 3, 48, 48)
    losses = dict(modality.task(options).losses(model, inputs, batch))
    assert list(losses) == [TokenGrid.parse(GRIDS[grid]).name for grid in ROWS[name].paper]
    sum(losses.values()).backward()
    assert model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_table_has_means_ranges_and_the_papers_numbers():
    text = table({"deit_small_7x7": [{"7x7": 50.0}, {"7x7": 60.0}]})
    assert text.splitlines()[-1] == "| one grid alone: 7x7 |  |  |  |  | 55.0 (50.0 to 60.0) | 72.41 |"
