"""Mixing and erasing: targets say exactly what share of which picture is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from revit.common.data.augment.batches import build_batch_augment
from revit.common.data.augment.options import AugmentOptions, MixOptions
from revit.common.data.batch import Batch
from revit.common.data.dataset import global_generators_seeded
from revit.common.system.errors import UserError

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


def test_a_batch_of_one_cannot_be_mixed():
    with pytest.raises(UserError, match=r"train\.batch_size is 1"):
        MixOptions(cutmix=1.0).check_batch(1)
    MixOptions(cutmix=1.0).check_batch(2)
    MixOptions().check_batch(1)


def test_nothing_asked_is_nothing_done():
    assert build_batch_augment(PLAIN, MixOptions(), NUM_CLASSES) is None


# -- clips -------------------------------------------------------------------------------------------------------------

EVERYTHING = [
    ({"erase_probability": 0.7, "erase_mode": mode, "erase_count": 3}, {"mixup": 0.8, "cutmix": 1.0, "mode": unit})
    for mode, unit in (("const", "batch"), ("rand", "pair"), ("pixel", "elem"))
]


@pytest.mark.parametrize(("erase", "mix"), EVERYTHING)
@pytest.mark.parametrize("size", [6, 5])
def test_a_clip_of_equal_frames_is_changed_as_its_picture(erase, mix, size):
    """One rectangle, one noise, one share and one partner for all frames; and clips draw what pictures draw."""
    augment = build_batch_augment(AugmentOptions(**erase), MixOptions(**mix), NUM_CLASSES)
    inputs, batch = torch.randn(size, 3, 16, 24), a_batch(size)[1]
    for seed in range(5):
        with global_generators_seeded(seed):
            pictures, targets = augment(inputs, batch)
        with global_generators_seeded(seed):
            clips, of_clips = augment(inputs[:, :, None].expand(-1, -1, 4, -1, -1), batch)
        assert torch.equal(clips, pictures[:, :, None].expand_as(clips))
        assert torch.equal(of_clips.targets, targets.targets)
        assert not torch.equal(pictures, inputs)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_frames_are_mixed_with_the_partners_frame_of_the_same_time(mode):
    """Frame t of clip i is 10 i + t: mixed by the share s it must be (1 - s) 10 i + s 10 j + t, s that of the targets."""
    augment = build_batch_augment(PLAIN, MixOptions(mixup=0.8, mode=mode), 6)
    frames = 10.0 * torch.arange(6)[:, None] + torch.arange(4)
    inputs = frames[:, None, :, None, None].expand(-1, 3, -1, 8, 8)
    batch = Batch(torch.empty(0), torch.arange(6), torch.arange(6))
    with global_generators_seeded(3):
        mixed, out = augment(inputs, batch)
    expected = (out.targets @ (10.0 * torch.arange(6)))[:, None] + torch.arange(4)
    torch.testing.assert_close(mixed, expected[:, None, :, None, None].expand_as(mixed))


def test_soft_targets_are_mixed_as_class_numbers_are():
    """Several labels a sample, or labels that are soft already: the same shares of the same partners."""
    augment = build_batch_augment(PLAIN, MixOptions(mixup=0.8, cutmix=1.0, mode="elem"), NUM_CLASSES)
    inputs, batch = a_batch(7)
    soft = Batch(batch.inputs, F.one_hot(batch.targets, NUM_CLASSES).float(), batch.ids)
    doubled = Batch(batch.inputs, 2 * soft.targets + 1, batch.ids)
    answers = []
    for one in (batch, soft, doubled):
        with global_generators_seeded(2):
            answers.append(augment(inputs, one)[1].targets)
    assert torch.equal(answers[0], answers[1])
    torch.testing.assert_close(answers[2], 2 * answers[0] + 1)  # mixing is linear, and its shares sum to 1


def test_an_erased_rectangle_is_the_same_in_all_frames_and_the_rest_moves_on():
    augment = build_batch_augment(AugmentOptions(erase_probability=1.0), MixOptions(), NUM_CLASSES)
    inputs = torch.randn(4, 3, 5, 16, 16)
    erased, _ = augment(inputs, a_batch(4)[1])
    changed = erased != inputs
    assert changed.any(dim=(1, 2, 3, 4)).all()
    assert torch.equal(changed, changed[:, :, :1].expand_as(changed))
    filling = erased[changed].view(-1)  # by time within each channel: the same noise at all times
    assert torch.equal(erased.where(changed, 0.0), erased.where(changed, 0.0)[:, :, :1].expand_as(erased))
    assert filling.std() > 0.5


def test_mixed_labels_teach_every_grid_of_clips_as_the_labels_they_are_mixed_of():
    """Self-distillation is linear in the labels: the loss of mixed ones is that of each label by its share."""
    from revit.common.methods.revit.task import ResizableTask
    from revit.video.models.timesformer import TimeSformer

    grids = ("4x4", "2x2")
    settings = {"img_size": 16, "num_frames": 2, "num_classes": NUM_CLASSES, "embed_dim": 8, "depth": 1, "num_heads": 2}
    model = TimeSformer(grids=grids, drop_path_rate=0.0, **settings).train()
    augment = build_batch_augment(PLAIN, MixOptions(mixup=0.8), NUM_CLASSES)
    batch = a_batch(4)[1]
    with global_generators_seeded(5):
        inputs, mixed = augment(torch.randn(4, 3, 2, 16, 16), batch)
    share = float(mixed.targets[0, 0])  # of the own label; sample 0 is of class 0, its partner of class 3
    assert 0.05 < share < 0.95

    def losses(targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(ResizableTask().losses(model, inputs, Batch(batch.inputs, targets, batch.ids)))

    whole, own, partners = losses(mixed.targets), losses(batch.targets), losses(batch.targets.flip(0))
    for grid in grids:
        torch.testing.assert_close(whole[grid], share * own[grid] + (1 - share) * partners[grid])
