"""Mixing and erasing: targets say exactly what share of which picture is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from revit.common.data.batch import Batch
from revit.common.data.dataset import global_generators_seeded
from revit.image.data.options import AugmentOptions, MixOptions
from revit.image.data.transforms import build_batch_augment

NUM_CLASSES = 5
PLAIN = AugmentOptions()


def a_batch(size: int) -> tuple[torch.Tensor, Batch]:
    """Picture i is i + 1 everywhere and of class i."""
    inputs = (torch.arange(size) + 1.0).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).clone()
    targets = torch.arange(size) % NUM_CLASSES
    return inputs, Batch(inputs=torch.empty(0), targets=targets, ids=torch.arange(size))


def share_of_partner(inputs: torch.Tensor, mixed: torch.Tensor, even: int) -> torch.Tensor:
    """(even,): how much of each mixed picture is its partner's, read off the mean pixel."""
    own = inputs[:even].mean(dim=(1, 2, 3))
    partner = own.flip(0)
    return (mixed[:even].mean(dim=(1, 2, 3)) - own) / (partner - own)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("kind", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
@pytest.mark.parametrize("size", [2, 6, 5, 1])
def test_targets_are_the_shares_of_the_pictures(mode, kind, size):
    augment = build_batch_augment(PLAIN, MixOptions(mode=mode, **kind), NUM_CLASSES)
    assert augment is not None
    inputs, batch = a_batch(size)
    even = size // 2 * 2
    for seed in range(5):
        with global_generators_seeded(seed):
            mixed, out = augment(inputs, batch)
        assert mixed.shape == inputs.shape
        assert out.targets.dtype == torch.float32
        own = F.one_hot(batch.targets, NUM_CLASSES).float()
        share = share_of_partner(inputs, mixed, even)[:, None]
        expected = own[:even] * (1 - share) + own[:even].flip(0) * share
        assert torch.allclose(out.targets[:even], expected, atol=1e-5)
        # The odd one out is as it was.
        assert torch.equal(out.targets[even:], own[even:])
        assert torch.equal(mixed[even:], inputs[even:])
        assert torch.equal(out.ids, batch.ids)
    assert torch.equal(inputs, a_batch(size)[0])


def test_cutmix_counts_the_pixels_of_the_clipped_rectangle():
    augment = build_batch_augment(PLAIN, MixOptions(cutmix=1.0), NUM_CLASSES)
    inputs, batch = a_batch(2)
    for seed in range(20):
        with global_generators_seeded(seed):
            mixed, out = augment(inputs, batch)
        pixels = (mixed[0, 0] == 2).float().mean()
        assert torch.allclose(out.targets[0, :2], torch.stack([1 - pixels, pixels]), atol=1e-6)


def test_mixing_with_probability_zero_gives_plain_targets():
    augment = build_batch_augment(PLAIN, MixOptions(mixup=0.8, probability=0.0), NUM_CLASSES)
    inputs, batch = a_batch(4)
    mixed, out = augment(inputs, batch)
    assert torch.equal(mixed, inputs)
    assert torch.equal(out.targets, F.one_hot(batch.targets, NUM_CLASSES).float())


def test_smoothing_after_mixing_is_smoothing_inside():
    """Why mixup is built without smoothing: the loss's own smoothing of soft targets gives timm's smoothed ones."""
    from timm.data.mixup import mixup_target

    targets, smoothing, share = torch.tensor([0, 3, 1, 4]), 0.1, 0.3
    inside = mixup_target(targets, NUM_CLASSES, share, smoothing)
    after = mixup_target(targets, NUM_CLASSES, share) * (1 - smoothing) + smoothing / NUM_CLASSES
    assert torch.allclose(inside, after)


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_erasing_replaces_one_rectangle(mode):
    options = AugmentOptions(erase_probability=1.0, erase_mode=mode)
    augment = build_batch_augment(options, MixOptions(), NUM_CLASSES)
    inputs, batch = a_batch(8)
    erased, out = augment(inputs, batch)
    assert torch.equal(inputs, a_batch(8)[0])
    assert out is batch
    for changed in (erased != inputs).any(dim=1):
        rows, columns = changed.any(dim=1).nonzero(), changed.any(dim=0).nonzero()
        area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert changed.sum() == area
        assert 0.01 < float(area) / changed.numel() < 0.4


def test_erased_pictures_are_mixed_afterwards():
    options = AugmentOptions(erase_probability=1.0, erase_mode="const")
    augment = build_batch_augment(options, MixOptions(mixup=1000.0), NUM_CLASSES)  # shares near a half
    inputs, batch = a_batch(2)
    with global_generators_seeded(1):
        mixed, _ = augment(inputs, batch)
    # 1.5 where neither is erased, 1.0 where only the first is; erased after mixing it would be 0.
    assert {1.0, 1.5} <= set(np.unique(mixed[0, 0].numpy().round(1)).round(1).tolist())


def test_equal_random_states_give_equal_batches():
    options = AugmentOptions(erase_probability=0.5)
    augment = build_batch_augment(options, MixOptions(mixup=0.8, cutmix=1.0), NUM_CLASSES)
    runs = []
    for _ in range(2):
        with global_generators_seeded(7):
            runs.append(augment(*a_batch(6)))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1].targets, runs[1][1].targets)


def test_nothing_asked_is_nothing_done():
    assert build_batch_augment(PLAIN, MixOptions(), NUM_CLASSES) is None
