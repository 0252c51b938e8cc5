"""Pixels: the documented geometry, the same for all frames of a clip."""

from __future__ import annotations

import pytest
import torch

from revit.video.data.options import PixelOptions
from revit.video.data.transforms import (
    eval_pixels,
    random_crop,
    random_short_side,
    resize_short_side,
    spatial_crop,
    train_pixels,
    train_short_side,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp(height: int, width: int, num_frames: int = 2) -> torch.Tensor:
    """uint8 (T, 3, height, width): column, row and frame number."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    frame = torch.stack([columns % 256, rows % 256, torch.zeros_like(rows)])
    return torch.stack([frame + torch.tensor([0, 0, t])[:, None, None] for t in range(num_frames)]).to(torch.uint8)


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [
        ((240, 320), 224, (224, 298)),
        ((320, 240), 224, (298, 224)),
        ((256, 340), 256, (256, 340)),
        ((100, 100), 64, (64, 64)),
    ],
)
def test_the_long_side_is_rounded_down(size, short, expected):
    assert resize_short_side(ramp(*size), short).shape[-2:] == expected


@pytest.mark.parametrize("antialias", [False, True])
def test_resizing_keeps_uint8(antialias):
    assert resize_short_side(ramp(60, 80), 48, antialias).dtype == torch.uint8


def test_three_crops_of_a_wide_clip_lie_at_0_37_74():
    clip = ramp(224, 298)
    for position, left in enumerate((0, 37, 74)):
        crop = spatial_crop(clip, 224, position)
        assert crop.shape[-2:] == (224, 224)
        assert crop[0, 0, 0, 0] == left


def test_three_crops_of_a_tall_clip_move_down():
    crops = [spatial_crop(ramp(298, 224), 224, position) for position in (0, 1, 2)]
    assert [int(crop[0, 1, 0, 0]) for crop in crops] == [0, 37, 74]


def test_one_crop_is_the_centre_at_the_lower_jitter_bound():
    options = PixelOptions(crop_size=24, jitter_min=32, jitter_max=40)
    one = eval_pixels(ramp(32, 64), options, 1)
    assert one.shape == (1, 3, 2, 24, 24)
    assert one[0, 0, 0, 0, 0] == 20
    assert one[0, 1, 0, 0, 0] == 4


def test_three_crops_are_at_the_crop_size():
    options = PixelOptions(crop_size=32, jitter_min=48, jitter_max=60)
    crops = eval_pixels(ramp(32, 64), options, 3)
    assert crops.shape == (3, 3, 2, 32, 32)
    assert crops[:, 0, 0, 0, 0].tolist() == [0, 16, 32]
    assert (crops[:, 2, 1] == 1).all()  # the frame axis survived


def test_all_frames_get_the_same_jitter_crop_and_flip():
    options = PixelOptions(crop_size=32, jitter_min=40, jitter_max=60)
    flips = set()
    for seed in range(8):
        clip = train_pixels(ramp(90, 120, 4), options, train_short_side(options, generator(seed)), generator(seed))
        assert clip.shape == (3, 4, 32, 32)
        assert clip.is_contiguous()
        assert (clip[:2] == clip[:2, :1]).all()
        flips.add(bool(clip[0, 0, 0, 0] > clip[0, 0, 0, -1]))
    assert flips == {False, True}


def test_the_same_generator_gives_the_same_clip():
    options = PixelOptions(crop_size=32, jitter_min=40, jitter_max=60)
    clips = [train_pixels(ramp(90, 120), options, 50, generator(3)) for _ in range(2)]
    assert torch.equal(*clips)


def test_flip_probability_bounds():
    for probability, flipped in ((0.0, False), (1.0, True)):
        options = PixelOptions(crop_size=32, jitter_min=40, jitter_max=60, flip_probability=probability)
        clip = train_pixels(ramp(90, 120), options, 50, generator())
        assert bool(clip[0, 0, 0, 0] > clip[0, 0, 0, -1]) == flipped


def test_published_crop_offsets_leave_out_the_last():
    clip = ramp(10, 12)
    for offsets, last in (("all", 4), ("published", 3)):
        lefts = {int(random_crop(clip, 8, offsets, generator(seed))[0, 0, 0, 0]) for seed in range(200)}
        assert lefts == set(range(last + 1))


@pytest.mark.parametrize("sampling", ["uniform", "inverse-uniform"])
def test_short_sides_stay_in_range_and_the_inverse_prefers_small_ones(sampling):
    sides = torch.tensor(
        [random_short_side(256, 320, sampling, generator(seed)) for seed in range(2000)], dtype=torch.float
    )
    assert sides.min() == 256
    assert sides.max() == 320
    # mean of 1 / uniform(1/320, 1/256) is ln(320/256) / (1/256 - 1/320)
    expected = 288.0 if sampling == "uniform" else 285.6
    assert abs(float(sides.mean()) - expected) < 1.0


def test_bgr_reverses_the_channels():
    rgb, bgr = (
        eval_pixels(ramp(32, 64), PixelOptions(crop_size=24, jitter_min=32, jitter_max=40, channel_order=order), 1)
        for order in ("rgb", "bgr")
    )
    assert torch.equal(rgb.flip(1), bgr)
