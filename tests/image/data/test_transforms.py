"""timm's transforms as the options ask for them, and label maps that follow them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import LEVEL_TO_ARG, AugmentOp

from revit.common.data.augment.policies import operations_of, train_parts
from revit.common.data.dataset import global_generators_seeded
from revit.image.data.options import PictureAugmentOptions as AugmentOptions
from revit.image.data.options import PicturePixelOptions
from revit.image.data.transforms import (
    MOVING,
    FollowedTransform,
    can_be_followed,
    eval_transform,
    move_map,
    train_transform,
)

RANDAUGMENT = "rand-m9-mstd0.5-inc1"
WHOLE = {"scale": (1.0, 1.0), "ratio": (4 / 3, 4 / 3), "interpolation": "nearest"}
"""A crop of the whole 64x48 picture."""


def quarter_map(k: int = 2, rows: int = 6, columns: int = 8) -> torch.Tensor:
    """(2, k, rows, columns) whose class number is the quarter's: 0 and 1 above, 2 and 3 below; all logits 1."""
    quarter = torch.arange(rows)[:, None] * 2 // rows * 2 + torch.arange(columns) * 2 // columns
    return torch.stack([torch.ones(k, rows, columns), quarter.float().expand(k, -1, -1)])


def test_training_is_timms_own_transform(quarters):
    settings = {"scale": (0.3, 0.9), "ratio": (0.8, 1.2), "interpolation": "random", "color_jitter": 0.3}
    # Not RANDAUGMENT: with newer PIL timm's own transform fails at its full strength.
    for extra in ({}, {"auto_augment": "rand-m5-mstd0.5-inc1"}):
        ours = train_transform(PicturePixelOptions(img_size=32), AugmentOptions(**settings, **extra))
        theirs = create_transform(32, is_training=True, use_prefetcher=True, **settings, **extra)
        for seed in range(10):
            with global_generators_seeded(seed):
                expected = torch.as_tensor(np.asarray(theirs(quarters)))
            with global_generators_seeded(seed):
                assert torch.equal(ours(quarters), expected)


@pytest.mark.parametrize("size", [32, (32, 48)])
def test_evaluation_resizes_and_cuts_the_centre(quarters, size):
    pixels = PicturePixelOptions(img_size=size, crop_pct=1.0, interpolation="nearest")
    cut = eval_transform(pixels)(quarters)
    assert cut.dtype == torch.uint8
    assert cut.shape == (3, *pixels.size)
    corners = cut[:, [1, 1, -2, -2], [1, -2, 1, -2]].T.reshape(2, 2, 3)
    expected = [[[200, 10, 10], [10, 200, 10]], [[10, 10, 200], [200, 200, 10]]]
    assert corners.tolist() == expected


def test_the_short_side_is_resized_to_256_for_a_crop_of_224():
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 300, 3)))
    cut = eval_transform(PicturePixelOptions(interpolation="nearest"))(ramp)
    assert cut.shape == (3, 224, 224)
    assert (int(cut[0, 0, 0]), int(cut[0, -1, 0])) == (16, 239)


@pytest.mark.parametrize("name", sorted(LEVEL_TO_ARG))
def test_no_operation_of_a_policy_fails_at_any_strength(quarters, name):
    """timm asks PIL to keep 0 bits, which newer PIL refuses; `train_parts` mends that."""
    _, changes, _ = train_parts((224, 224), (0.5, 0.5, 0.5), AugmentOptions(auto_augment=RANDAUGMENT))
    mended = {operation.name: operation for operation in operations_of(changes.transforms[0])}
    for magnitude in (0, 5, 10):
        operation = AugmentOp(name, prob=1.0, magnitude=magnitude)
        if name.startswith("Posterize"):
            operation.aug_fn = mended["PosterizeIncreasing"].aug_fn
        assert operation(quarters).size == quarters.size


def test_posterising_to_no_bits_is_black(quarters):
    _, changes, _ = train_parts((224, 224), (0.5, 0.5, 0.5), AugmentOptions(auto_augment="rand-m10-inc1-p1"))
    (posterise,) = [
        operation for operation in operations_of(changes.transforms[0]) if operation.name == "PosterizeIncreasing"
    ]
    assert np.asarray(posterise(quarters)).max() == 0


# -- label maps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_flip_takes_the_map_along(quarters, flip):
    transform = FollowedTransform(
        PicturePixelOptions(img_size=(48, 64)), AugmentOptions(flip_probability=flip, **WHOLE)
    )
    label_map = quarter_map()
    pixels, moved, crop = transform(quarters, label_map)
    expected = torch.from_numpy(np.asarray(quarters).copy()).permute(2, 0, 1)
    assert torch.equal(pixels, expected.flip(-1) if flip else expected)
    assert torch.equal(moved, label_map.flip(-1) if flip else label_map)
    assert crop.tolist() == [0, 0, 1, 1]


def test_the_crop_is_told_as_fractions(quarters):
    """What the fractions cut out of the picture is what the transform returns."""
    transform = FollowedTransform(
        PicturePixelOptions(img_size=16), AugmentOptions(flip_probability=0, scale=(0.1, 0.5), interpolation="bilinear")
    )
    for seed in range(10):
        with global_generators_seeded(seed):
            pixels, label_map, crop = transform(quarters, quarter_map())
        top, left, height, width = (crop * torch.tensor([48, 64, 48, 64])).round().int().tolist()
        cut = quarters.crop((left, top, left + width, top + height)).resize((16, 16), Image.Resampling.BILINEAR)
        assert torch.equal(pixels, torch.from_numpy(np.asarray(cut).copy()).permute(2, 0, 1))
        assert torch.equal(label_map, quarter_map())
        assert 0.1 * 0.9 < float(crop[2] * crop[3]) < 0.5 * 1.1


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("seed", range(3))
def test_moving_operations_move_the_map_like_the_picture(name, seed):
    """A picture that is its own label map, one cell a pixel: both come out alike."""
    operation = AugmentOp(name, prob=0.7, magnitude=7, hparams={"magnitude_std": 0.5})
    operation.kwargs = {"fillcolor": 0, "resample": Image.Resampling.NEAREST}
    values = np.random.default_rng(seed).integers(1, 256, (20, 30), dtype=np.uint8)
    random.seed(seed)
    moved = np.asarray(operation(Image.fromarray(values)))
    random.seed(seed)
    label_map = torch.from_numpy(values.astype(np.float32)).expand(2, 5, 20, 30)
    assert torch.equal(move_map(label_map, operation), torch.from_numpy(moved.astype(np.float32)).expand(2, 5, 20, 30))


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1-n3-p1", "rand-m5-mstd101-tweights", "v0", "3a"])
def test_whole_policies_move_the_map_like_the_picture(policy):
    """The picture's colours say which quarter of the map a pixel belongs to, before and after a policy."""
    transform = FollowedTransform(
        PicturePixelOptions(img_size=(48, 64)), AugmentOptions(flip_probability=0.5, auto_augment=policy, **WHOLE)
    )
    for operation in operations_of(transform.changes[0]):
        inner = operation.change
        if inner.name in MOVING:
            inner.kwargs = {"fillcolor": (0, 0, 0), "resample": Image.Resampling.NEAREST}
        else:
            inner.aug_fn = lambda picture, *_, **__: picture  # colours stay what they say
    rows, columns = np.mgrid[0:48, 0:64]
    numbers = (rows * 2 // 48 * 2 + columns * 2 // 64 + 1).astype(np.float32)
    picture = Image.fromarray(np.repeat(numbers.astype(np.uint8)[..., None], 3, axis=2))
    label_map = torch.from_numpy(numbers).expand(2, 3, 48, 64)
    moves = 0
    for seed in range(12):
        with global_generators_seeded(seed):
            pixels, moved, _ = transform(picture, label_map)
        assert torch.equal(moved, pixels[:1].float().expand(2, 3, -1, -1))
        moves += not torch.equal(moved, label_map)
    assert moves > 3


def test_following_draws_the_same_pictures(quarters):
    """Replaying operations on the map leaves the random numbers of the picture as they are."""
    pixels = PicturePixelOptions(img_size=32)
    transform = FollowedTransform(pixels, AugmentOptions(auto_augment=RANDAUGMENT, interpolation="random"))
    options = AugmentOptions(auto_augment=RANDAUGMENT, interpolation="random", flip_probability=0)
    first, changes, last = train_parts(pixels.size, pixels.mean, options)
    for seed in range(10):
        with global_generators_seeded(seed):
            mirrored = float(torch.rand(())) < 0.5
            turned = quarters.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else quarters
            expected = last(first(changes(turned)))
        with global_generators_seeded(seed):
            assert torch.equal(transform(quarters, quarter_map())[0], expected)


def test_colour_jitter_leaves_the_map_alone(quarters):
    transform = FollowedTransform(
        PicturePixelOptions(img_size=32), AugmentOptions(flip_probability=0, color_jitter=0.4)
    )
    assert torch.equal(transform(quarters, quarter_map())[1], quarter_map())


@pytest.mark.parametrize(
    ("policy", "follows"), [(RANDAUGMENT, True), ("v0", True), ("3a", True), ("augmix-m5-w4", False)]
)
def test_which_policies_maps_can_follow(policy, follows):
    assert can_be_followed(policy) == follows
