"""Augmentation of clips: all frames by one draw, as timm and torchvision change a picture; the same for any workers."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms import v2

from revit.common.data.augment.options import AugmentOptions
from revit.common.data.dataset import global_generators_seeded
from revit.image.data.options import PictureAugmentOptions, PicturePixelOptions
from revit.image.data.transforms import train_transform
from revit.video.data.clips import build_train_loader
from revit.video.data.options import ClipOptions, PixelOptions
from revit.video.data.transforms import train_pixels
from revit.video.modality import VideoModality
from revit.video.options import VideoRun

PIXELS = PixelOptions(crop_size=32, jitter_min=32, jitter_max=40, flip_probability=0.5)
RANDAUGMENT = "rand-m9-n4-mstd0.5-inc1"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(num_frames: int = 1, height: int = 48, width: int = 64) -> torch.Tensor:
    """uint8 (T, 3, height, width), smooth enough to be resized."""
    small = torch.randint(256, (num_frames, 3, 6, 8), generator=generator(9), dtype=torch.uint8)
    return v2.functional.resize(small, [height, width])


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_augment": RANDAUGMENT},
        {"auto_augment": "augmix-m5-w4"},
        {"auto_augment": "v0", "scale": (0.2, 1.0)},
        {"color_jitter": (0.4, 0.4, 0.4, 0.1)},
        {"scale": (0.1, 1.0), "ratio": (0.5, 2.0), "interpolation": "random"},
    ],
)
def test_equal_frames_stay_equal_and_something_changes(settings):
    augment = AugmentOptions(**settings)
    clip = noise().expand(5, -1, -1, -1)
    seen = []
    for seed in range(6):
        changed = train_pixels(clip, PIXELS, 36, generator(seed), augment)
        assert changed.shape == (3, 5, 32, 32)
        assert changed.is_contiguous()
        assert torch.equal(changed, changed[:, :1].expand_as(changed))
        assert torch.equal(changed, train_pixels(clip, PIXELS, 36, generator(seed), augment))
        seen.append(changed)
    plain = [train_pixels(clip, PIXELS, 36, generator(seed)) for seed in range(6)]
    assert all(not torch.equal(one, other) for one, other in zip(seen, plain))
    assert all(not torch.equal(seen[0], other) for other in seen[1:])


@pytest.mark.parametrize("policy", [None, RANDAUGMENT])
def test_a_frame_is_changed_as_a_picture_is(policy):
    """With the crop of `scale` a clip of one frame is the training picture, bit for bit."""
    settings = {"scale": (0.2, 0.9), "ratio": (0.8, 1.2), "auto_augment": policy, "color_jitter": 0.3}
    pixels = PicturePixelOptions(img_size=32, mean=PIXELS.mean, std=PIXELS.std)
    as_picture = train_transform(pixels, PictureAugmentOptions(**settings))
    (frame,) = noise()
    picture = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    for seed in range(6):
        clip = train_pixels(frame[None], PIXELS, 0, generator(seed), AugmentOptions(**settings))
        with global_generators_seeded(int(torch.randint(2**62, (), generator=generator(seed)))):
            expected = torch.as_tensor(as_picture(picture))
        assert torch.equal(clip[:, 0], expected)


def test_colour_jitter_is_torchvisions_of_whole_clips():
    """Frame after frame as pictures, or the clip as one tensor: the same draw, up to the rounding of each step."""
    clip, strengths = noise(3, 32, 32), (0.4, 0.4, 0.4)
    pixels = PIXELS.model_copy(update={"flip_probability": 0.0})
    jitter = v2.ColorJitter(*strengths)
    for seed in range(6):
        source = generator(seed)
        ours = train_pixels(clip, pixels, 32, source, AugmentOptions(color_jitter=strengths))
        source = generator(seed)
        train_pixels(clip, pixels, 32, source)  # draws crop and flip
        with global_generators_seeded(int(torch.randint(2**62, (), generator=source))):
            theirs = jitter(clip).transpose(0, 1)
        assert not torch.equal(theirs, clip.transpose(0, 1))
        assert (ours.int() - theirs.int()).abs().max() <= 3


def test_frames_that_move_keep_moving_alike():
    """A rotation and a shear are the same for all frames: each frame is what the clip of it alone would be."""
    clip = noise(4)
    augment = AugmentOptions(auto_augment=RANDAUGMENT, scale=(0.3, 1.0))
    for seed in range(4):
        whole = train_pixels(clip, PIXELS, 0, generator(seed), augment)
        for number, frame in enumerate(clip):
            alone = train_pixels(frame[None], PIXELS, 0, generator(seed), augment)
            assert torch.equal(whole[:, number], alone[:, 0])


@pytest.mark.parametrize("scale", [None, (0.5, 1.0)])
def test_the_flip_of_augment_counts_before_that_of_pixels(scale):
    clip = torch.arange(32, dtype=torch.uint8).expand(1, 3, 32, 32)
    for flip, mirrored in ((0.0, False), (1.0, True), (None, True)):
        pixels = PIXELS.model_copy(update={"flip_probability": 1.0})
        out = train_pixels(clip, pixels, 32, generator(0), AugmentOptions(scale=scale, flip_probability=flip))
        assert bool(out[0, 0, 0, 0] > out[0, 0, 0, -1]) == mirrored


def test_bgr_swaps_channels_after_the_colours_were_changed():
    augment = AugmentOptions(color_jitter=(0.4, 0.4, 0.4, 0.2))
    rgb, bgr = (
        train_pixels(noise(2), PIXELS.model_copy(update={"channel_order": order}), 32, generator(1), augment)
        for order in ("rgb", "bgr")
    )
    assert torch.equal(rgb.flip(0), bgr)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": (0.5, 2.0)}, "set scale too"),
        ({"scale": (0.5, 2.0)}, "ends at 1"),
        ({"scale": (0.9, 0.1)}, "the smaller first"),
        ({"auto_augment": "rand-m9-x5"}, "no policy that timm knows"),
        ({"auto_augment": "rand-m"}, "'m' says no number"),
        ({"repeats": 0}, "greater than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        ClipOptions(augment=settings)


def test_runs_from_before_compare_equal():
    assert not {"augment", "mix"} & set(ClipOptions().model_dump())
    assert ClipOptions(augment={"repeats": 2}).model_dump()["augment"]["repeats"] == 2


# -- real files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def options(make_video, tmp_path):
    """Four files of four lengths in one list."""
    lines = [f"{make_video(f'{number}.mp4', num_frames=20 + number)} {number % 2}\n" for number in range(4)]
    (tmp_path / "list.csv").write_text("".join(lines))

    def build(num_workers: int = 0, **augment) -> ClipOptions:
        return ClipOptions(
            source={"train": str(tmp_path / "list.csv")},
            frames={"num_frames": 4, "sampling_rate": 4},
            pixels={"crop_size": 32, "jitter_min": 32, "jitter_max": 40},
            augment=augment,
            loading={"num_workers": num_workers, "decode_timeout_seconds": 0},
        )

    return build


EVERY_KIND = {"auto_augment": RANDAUGMENT, "scale": (0.3, 1.0), "repeats": 2}


def test_batches_depend_on_the_seed_and_not_on_the_workers(options):
    alone, helped, other = (
        list(build_train_loader(options(workers, **EVERY_KIND), 2, seed=seed))
        for workers, seed in ((0, 5), (2, 5), (0, 6))
    )
    for left, right in zip(alone, helped, strict=True):
        assert torch.equal(left.inputs, right.inputs)
        assert torch.equal(left.ids, right.ids)
    assert any(not torch.equal(left.inputs, right.inputs) for left, right in zip(alone, other, strict=True))


def test_repeats_show_half_of_the_clips_twice_each_time_another_way(options):
    loader = build_train_loader(options(**EVERY_KIND), 2, seed=0)
    batches = list(loader)
    assert len(batches) == 2
    for batch in batches:
        assert batch.ids[0] == batch.ids[1]
        assert not torch.equal(batch.inputs[0], batch.inputs[1])
    assert len({int(batch.ids[0]) for batch in batches}) == 2


def test_the_assigner_sees_clips_without_what_changes_them_further(options):
    run = {"kind": "video", "run": {"dir": "nowhere"}, "model": {"grids": ["4x4", "2x2"]}}
    modality = VideoModality()

    def batch_of(loader_of, **augment):
        data = options(**augment).model_dump()
        return next(iter(loader_of(VideoRun(data=data, **run), "train", 4)))

    plain, shown = (batch_of(modality.assigner_loader, **augment) for augment in ({}, EVERY_KIND))
    assert torch.equal(plain.inputs, shown.inputs)
    assert torch.equal(plain.inputs, batch_of(modality.train_loader).inputs)
    assert not torch.equal(plain.inputs, batch_of(modality.train_loader, **EVERY_KIND).inputs)
