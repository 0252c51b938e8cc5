"""From files to targets: what a crop shows and what its patches are told are the same, at every grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from revit.common.data import build
from revit.image.data.options import PictureOptions
from revit.image.data.pictures import read_split, train_load
from revit.image.tasks import RegionTargets, densify

COLOURS = np.array([[230, 20, 20], [20, 230, 20], [20, 20, 230], [230, 230, 20]], dtype=np.uint8)
GRIDS = [(14, 14), (10, 10), (7, 7)]


def write(folder: Path, width: int, height: int, cells: int = 18) -> None:
    """Two pictures of four quarters in different orders, with the maps of what is where."""
    for number, order in enumerate([(0, 1, 2, 3), (3, 2, 0, 1)]):
        picture, label_map = (folder / f"{kind}/n{number}/p" for kind in ("train", "maps"))
        picture.parent.mkdir(parents=True)
        label_map.parent.mkdir(parents=True)
        quarter = np.array(order).reshape(2, 2)
        rows, cols = np.arange(height) * 2 // height, np.arange(width) * 2 // width
        Image.fromarray(COLOURS[quarter[rows[:, None], cols]]).save(picture.with_suffix(".png"))
        half = np.arange(cells) * 2 // cells
        numbers = torch.from_numpy(quarter[half[:, None], half]).float()
        torch.save(torch.stack([torch.full_like(numbers, 9.0), numbers])[:, None].half(), label_map.with_suffix(".pt"))


def options(folder: Path) -> PictureOptions:
    return PictureOptions.model_validate(
        {
            "source": {"train": str(folder / "train")},
            "pixels": {"img_size": 140},
            "augment": {"scale": (0.1, 1.0), "interpolation": "bilinear"},
            "token_labels": {"folder": str(folder / "maps")},
            "loading": {"num_workers": 0},
        }
    )


def shown(pixels: Tensor, rows: int, cols: int) -> tuple[Tensor, Tensor]:
    """uint8 (B, C, H, W) -> per patch the colour most seen there (B, S) and its share of the patch's pixels."""
    distance = (pixels[:, None].float() - torch.from_numpy(COLOURS).float()[None, :, :, None, None]).norm(dim=2)
    nearest = torch.nn.functional.one_hot(distance.argmin(1), len(COLOURS)).permute(0, 3, 1, 2).float()
    share, colour = torch.nn.functional.adaptive_avg_pool2d(nearest, (rows, cols)).max(dim=1)
    return colour.flatten(1), share.flatten(1)


@pytest.mark.parametrize("size", [(120, 120), (150, 100)])
def test_every_patch_is_told_the_quarter_that_it_shows(tmp_path, size):
    write(tmp_path, *size)
    run = options(tmp_path)
    pictures = read_split(run, "train")
    load = train_load(run, pictures, len(COLOURS))
    loader = build.train_loader(load, pictures, run.loading, batch_size=2, seed=0)
    corrected, official = [], []
    for epoch in range(6):
        loader.set_epoch(epoch)
        for batch in loader:
            dense = densify(batch.extras["label_map"], len(COLOURS))
            for grid in GRIDS:
                colour, share = shown(batch.inputs, *grid)
                for order, seen in (("corrected", corrected), ("official", official)):
                    targets = RegionTargets(dense, batch.extras["crop"], 1.0, 0.0, order)
                    told = targets.patches(*grid)
                    sure = (share > 0.99) & (told.amax(-1) > 0.99)
                    seen.append((told.argmax(-1) == colour)[sure])
    assert len(torch.cat(corrected)) > 1000
    assert torch.cat(corrected).float().mean() > 0.995
    # The published order is right only where the crop lies on the diagonal.
    assert torch.cat(official).float().mean() < 0.9
