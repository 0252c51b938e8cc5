"""The rows of ReViT's ablation tables: each configuration says what it should, and runs on the demo's digits."""

from __future__ import annotations

import pytest
import torch
from ablations import GRIDS, ROWS, on_digits, table
from harness import CONFIGS

from revit.common.config.load import load
from revit.common.data.batch import Batch
from revit.common.models.grid import TokenGrid
from revit.image.options import ImageRun

IMAGE = CONFIGS / "image"


def grids_of(row):
    return [grid for grid, paper in zip(GRIDS, ROWS[row][2]) if paper is not None]


def test_every_ablation_has_a_row_with_the_grids_of_its_paper_numbers():
    files = {path.relative_to(IMAGE).as_posix() for path in (IMAGE / "ablations").glob("*.yaml")}
    assert files <= {config for _, config, _ in ROWS.values()}
    for row in ROWS:
        assert list(load(ImageRun, IMAGE / ROWS[row][1]).model.grids) == grids_of(row)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains_on_digits(name, tmp_path):
    options, modality = on_digits(name, 3, tmp_path)
    wanted = load(ImageRun, IMAGE / ROWS[name][1])
    assert (options.run.seed, options.data.demo.seed) == (3, 3)
    assert options.model.positions == wanted.model.positions
    assert options.distill == wanted.distill
    model = modality.build_model(options, 10)
    assert [grid.name for grid in model.grids] == [GRIDS[grid] for grid in grids_of(name)]
    batch = Batch(torch.zeros(4, 3, 48, 48, dtype=torch.uint8), torch.arange(4), torch.arange(4))
    inputs = torch.randn(4, 3, 48, 48)
    losses = dict(modality.task(options).losses(model, inputs, batch))
    assert list(losses) == [TokenGrid.parse(GRIDS[grid]).name for grid in grids_of(name)]
    sum(losses.values()).backward()
    assert model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_table_has_means_ranges_and_the_papers_numbers():
    text = table({"deit_small_7x7": [{"7x7": 50.0}, {"7x7": 60.0}]})
    assert text.splitlines()[-1] == "| one grid alone: 7x7 |  |  |  |  | 55.0 (50.0 to 60.0) | 72.41 |"
