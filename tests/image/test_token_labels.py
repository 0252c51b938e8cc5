from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy

from revit.image.tasks import (
    RegionTargets,
    correct_by_label,
    densify,
    mix_with_partner,
    on_and_off,
    region_align,
    soft_cross_entropy,
    soft_labels,
)

GRIDS = [(14, 14), (10, 10), (7, 7), (9, 14), (1, 1)]
QUARTERS = {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 1): 3}


def quarters(cells: int = 18) -> torch.Tensor:
    """One map (1, 2, 2, H, W) whose four quarters name classes 0 to 3 first and class 4 weakly."""
    numbers = torch.zeros(cells, cells)
    for (row, col), number in QUARTERS.items():
        numbers.unflatten(0, (2, -1)).unflatten(2, (2, -1))[row, :, col] = number
    values = torch.stack([torch.full_like(numbers, 9.0), torch.full_like(numbers, 1.0)])
    return torch.stack([values, torch.stack([numbers, torch.full_like(numbers, 4.0)])])[None].half()


def random_maps(batch: int, classes: int = 20, k: int = 5, rows: int = 18, cols: int = 18) -> torch.Tensor:
    numbers = torch.rand(batch, classes, rows, cols).argsort(dim=1)[:, :k]
    return torch.stack([torch.randn(batch, k, rows, cols) * 4, numbers.float()], dim=1)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("quarter", QUARTERS)
def test_a_crop_of_a_quarter_gets_that_quarters_labels(grid, quarter):
    row, col = quarter
    crop = torch.tensor([[row / 2, col / 2, 0.5, 0.5]])
    dense = densify(quarters(), 6)
    corrected = RegionTargets(dense, crop, 1.0, 0.0)
    assert set(corrected.patches(*grid).argmax(-1).flatten().tolist()) == {QUARTERS[quarter]}
    assert corrected.whole().argmax(-1).item() == QUARTERS[quarter]
    # The published order looks at the transposed place.
    official = RegionTargets(dense, crop, 1.0, 0.0, "official")
    assert set(official.patches(*grid).argmax(-1).flatten().tolist()) == {QUARTERS[col, row]}
    # In a mirrored map, the other side's.
    flipped = RegionTargets(dense.flip(-1), crop, 1.0, 0.0)
    assert set(flipped.patches(*grid).argmax(-1).flatten().tolist()) == {QUARTERS[row, 1 - col]}


@pytest.mark.parametrize("grid", GRIDS[:4])
def test_the_whole_picture_shows_all_quarters_in_row_order(grid):
    targets = RegionTargets(densify(quarters(), 6), torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 1.0, 0.0)
    seen = targets.patches(*grid).argmax(-1).view(grid)
    assert [seen[0, 0], seen[0, -1], seen[-1, 0], seen[-1, -1]] == [0, 1, 2, 3]


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("shrink", [1, 2])
def test_whole_cells_are_cut_out_and_averaged(shrink, official):
    """Two routes: a crop along cell borders is a slice, and fewer output cells are means of whole map cells."""
    dense = densify(random_maps(3), 20)
    boxes = [(2, 4, 6, 8), (0, 0, 6, 8), (12, 10, 6, 8)]  # top, left, height, width in cells of 18
    found = region_align(
        dense,
        torch.tensor(boxes) / 18 * torch.tensor([1, 1, 1 - 1e-6, 1 - 1e-6]),  # more samples from a whole number on
        *((8 // shrink, 6 // shrink) if official else (6 // shrink, 8 // shrink)),
        axis_order="official" if official else "corrected",
    )
    for picture, (top, left, height, width) in enumerate(boxes):
        if official:
            top, left, height, width = left, top, width, height
        cut = dense[picture : picture + 1, :, top : top + height, left : left + width]
        assert torch.allclose(found[picture], F.avg_pool2d(cut, shrink)[0], atol=1e-3)


def test_corrected_order_reads_rows_and_columns_by_their_own_counts():
    dense = densify(random_maps(1, rows=6, cols=12), 20)
    found = region_align(dense, torch.tensor([[1 / 3, 0.25, 0.4999999, 0.4999999]]), 3, 6)
    assert torch.allclose(found, dense[:, :, 2:5, 3:9], atol=1e-3)


def test_official_order_is_corrected_order_of_transposed_maps():
    dense, crop = densify(random_maps(2), 20), torch.tensor([[0.1, 0.3, 0.5, 0.4], [0.6, 0.0, 0.3, 0.9]])
    official = region_align(dense, crop, 7, 7, "official")
    assert torch.allclose(official, region_align(dense.mT, crop, 7, 7).mT, atol=1e-5)


def test_beyond_the_map_nothing_is_known():
    targets = RegionTargets(densify(random_maps(1), 20), torch.tensor([[0.0, -1.0, 1.0, 0.5]]), 0.9, 0.005)
    assert torch.allclose(targets.patches(7, 7), torch.tensor(0.9 / 20 + 0.005))


def test_densify_against_a_loop():
    maps = random_maps(2, classes=7, k=3, rows=3, cols=4)
    maps[0, 1, 0] = -1  # entries left out of a class subset
    maps[1, :, :, 0] = 0  # cells emptied by a rotation
    wanted = torch.zeros(2, 7, 3, 4)
    for b, k, row, col in torch.cartesian_prod(*map(torch.arange, (2, 3, 3, 4))).tolist():
        number = int(maps[b, 1, k, row, col])
        if number >= 0:
            wanted[b, number, row, col] += maps[b, 0, k, row, col]
    assert torch.equal(densify(maps, 7), wanted)
    with pytest.raises(ValueError, match=r"\(B, 2, k, H, W\)"):
        densify(maps[0], 7)


def test_each_target_sums_to_one_and_smoothing_over_classes():
    on, off = on_and_off(0.1, 20)
    crop = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).expand(3, 4)
    targets = RegionTargets(densify(random_maps(3), 20), crop, on, off)
    for target in (targets.patches(10, 10), targets.whole()):
        assert torch.allclose(target.sum(-1), torch.tensor(1 + 0.1 / 20), atol=1e-5)
    assert not targets.patches(10, 10).requires_grad


def test_a_picture_alone_gets_what_it_gets_in_a_batch():
    maps, crop = random_maps(3), torch.rand(3, 4) / 2
    together = RegionTargets(densify(maps, 20), crop, 0.9, 0.01)
    alone = RegionTargets(densify(maps[1:2], 20), crop[1:2], 0.9, 0.01)
    assert torch.allclose(together.patches(7, 7)[1:2], alone.patches(7, 7), atol=1e-6)
    assert torch.allclose(together.whole()[1:2], alone.whole(), atol=1e-6)


def test_soft_labels_are_smoothed_labels():
    numbers, logits = torch.tensor([2, 0]), torch.randn(2, 5)
    smoothed = soft_labels(numbers, 5, *on_and_off(0.1, 5))
    expected = F.cross_entropy(logits, numbers, label_smoothing=0.1)
    assert torch.allclose(soft_cross_entropy(logits, smoothed), expected)
    assert torch.allclose(soft_labels(F.one_hot(numbers, 5).float(), 5, *on_and_off(0.1, 5)), smoothed)


def test_dense_cross_entropy_and_its_gradient_reach_every_patch():
    logits, targets = torch.randn(2, 9, 5, requires_grad=True), torch.rand(2, 9, 5)
    loss = soft_cross_entropy(logits, targets)
    assert torch.allclose(loss, SoftTargetCrossEntropy()(logits.flatten(0, 1), targets.flatten(0, 1)))
    loss.backward()
    # d/dz of -sum t log softmax(z) is sum(t) softmax(z) - t.
    wanted = (targets.sum(-1, keepdim=True) * logits.softmax(-1) - targets) / 18
    assert torch.allclose(logits.grad, wanted, atol=1e-6)
    one_for_all = targets[:, :1]
    assert torch.allclose(
        soft_cross_entropy(logits, one_for_all), soft_cross_entropy(logits, one_for_all.expand(2, 9, 5))
    )


def test_mixing_with_the_partner_is_its_own_mirror():
    targets = torch.rand(5, 7)
    mixed = mix_with_partner(targets, 0.7)
    assert torch.allclose(mixed[1], 0.7 * targets[1] + 0.3 * targets[3])
    assert torch.allclose(mixed[2], targets[2])  # the middle of an odd batch is its own partner
    assert torch.allclose(mix_with_partner(targets, 0.3), mixed.flip(0))
    assert torch.equal(mix_with_partner(targets, 1.0), targets)


def test_label_corrects_half_where_it_agrees_and_a_tenth_where_not():
    whole = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]])
    label = soft_labels(torch.tensor([0, 0]), 3)
    wanted = torch.tensor([[0.8, 0.15, 0.05], [0.19, 0.27, 0.54]])
    assert torch.allclose(correct_by_label(whole, label), wanted)
