"""`pixels.resize=decoder`: the transform's geometry, nearly its pixels, its random numbers."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from revit.common.data.formats.base import ListRequest
from revit.common.data.lists import SampleList
from revit.video.data.clips import TrainClips, load_views
from revit.video.data.convert.clip import psnr
from revit.video.data.decode.pyav import Converter, short_side_size
from revit.video.data.decode.read import DecodeError, Wanted, read_frames
from revit.video.data.decode.reader import FrameReader
from revit.video.data.lists import read_clips
from revit.video.data.options import ClipOptions, PixelOptions, ViewOptions
from revit.video.data.transforms import resize_short_side

pytestmark = pytest.mark.filterwarnings("ignore")  # the encoders' chatter

SMALL = {"crop_size": 64, "jitter_min": 72, "jitter_max": 90, "antialias": True}
FRAMES = {"num_frames": 4, "sampling_rate": 4}


def textured(height: int, width: int, cell: int = 24) -> av.VideoFrame:
    """Smooth light and colours, with edges: an even texture of `cell` pixels, enlarged."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (3, height // cell + 3, width // cell + 3)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse)[None], (height, width), mode="bicubic")
    picture = smooth[0].clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)
    picture[height // 3 : height // 2, width // 3 : width // 2] = 255
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")


def resized(frame: av.VideoFrame, rotation: int, short_side: int, antialias: bool = True) -> np.ndarray:
    """(H, W, 3) by the transform."""
    clip = torch.from_numpy(Converter()(frame, rotation).copy()).permute(2, 0, 1)[None]
    return resize_short_side(clip, short_side, antialias)[0].permute(1, 2, 0).numpy()


FORMATS = {
    "limited_range": {},
    "full_range": {"dst_color_range": "JPEG"},
    "bt709": {"dst_colorspace": "ITU709"},
    "444": {"format": "yuv444p"},
    "ten_bit": {"format": "yuv420p10le"},
    "gray": {"format": "gray"},
}


@pytest.mark.parametrize("rotation", [0, 90, 180])
@pytest.mark.parametrize("name", FORMATS)
def test_pixels_are_nearly_those_of_the_transform(name, rotation):
    """Measured: at least 45.4 dB of luma and 37.4 of the worst colour; shifted by one pixel, 32 of luma at most."""
    frame = textured(360, 641).reformat(**{"format": "yuv420p", **FORMATS[name]})
    for short_side in (224, 112):
        small, expected = Converter(short_side)(frame, rotation), resized(frame, rotation, short_side)
        assert small.shape == expected.shape
        assert psnr(small, expected) > 44
        error = np.mean((small.astype(float) - expected) ** 2, axis=(0, 1))
        assert (10 * np.log10(255**2 / error) > 36).all(), error


def test_aliasing_is_not_made():
    """A fine chequered pattern becomes gray, where the transform without `antialias` picks single pixels."""
    rows, columns = np.mgrid[0:360, 0:640]
    picture = np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., None], 3, 2)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv444p")
    spread = [
        float(image.std())
        for image in (Converter(100)(frame, 0), resized(frame, 0, 100), resized(frame, 0, 100, False))
    ]
    assert spread[0] < 8
    assert spread[1] < 8
    assert spread[2] > 40


@pytest.mark.parametrize(("height", "width"), [(96, 160), (160, 96), (98, 174), (128, 128)])
@pytest.mark.parametrize("rotation", [0, 90])
def test_sizes_are_the_transforms(height, width, rotation, make_video, numbers_of):
    path = make_video(height=height, width=width, rotation=rotation, num_frames=12)
    upright = (width, height) if rotation else (height, width)
    for short_side in (64, 73):
        frames = read_frames(path, lambda _, s=short_side: Wanted([7, 3, 7], s))
        assert frames.shape[1:3] == short_side_size(*upright, short_side)
        assert min(frames.shape[1:3]) == short_side
        turned_back = np.rot90(frames, 1 if rotation else 0, axes=(1, 2))
        assert numbers_of(turned_back) in ([7, 3, 7], numbers_of(np.rot90(turned_back, 2, axes=(1, 2))))


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_frames_that_are_small_enough_stay_as_they_are(backend, make_video):
    path = make_video(num_frames=12)
    expected = read_frames(path, lambda _: [1, 9])
    for short_side in (96, 200, None):
        assert np.array_equal(read_frames(path, lambda _, s=short_side: Wanted([1, 9], s), backend), expected)


def test_shrunk_frames_are_the_same_from_every_route(make_video):
    path = make_video(num_frames=12)
    expected = read_frames(path, lambda _: Wanted([1, 9], 48))
    assert np.array_equal(read_frames(path, lambda _: Wanted([1, 9], 48), "decord"), expected)
    reader = FrameReader()
    assert np.array_equal(reader.read(path, lambda _: Wanted([1, 9], 48)), expected)
    with pytest.raises(ValueError, match="short_side 0"):
        reader.read(path, lambda _: Wanted([1], 0))
    assert np.array_equal(reader.read(path, lambda _: Wanted([1, 9], 48)), expected)
    reader.close()


def test_frames_that_change_size_are_refused_though_they_would_be_shrunk_to_one(make_video, tmp_path):
    both = tmp_path / "both.h264"
    parts = [make_video(f"{width}.h264", width=width, height=width // 2, num_frames=8) for width in (128, 256)]
    both.write_bytes(b"".join(Path(part).read_bytes() for part in parts))
    for short_side in (None, 48):
        with pytest.raises(DecodeError, match="change size"):
            read_frames(str(both), lambda _, s=short_side: Wanted(range(16), s))


def options(resize: str, **pixels) -> ClipOptions:
    return ClipOptions(frames=FRAMES, pixels={**SMALL, **pixels, "resize": resize})


@pytest.mark.parametrize("num_crops", [1, 3])
def test_views_of_a_test_cover_the_same(num_crops, make_video):
    path, views = make_video(width=320, height=180, num_frames=20), ViewOptions(num_crops=num_crops)
    by_transform, by_decoder = (load_views(path, options(who), views) for who in ("transform", "decoder"))
    assert by_transform.shape == by_decoder.shape
    assert not torch.equal(by_transform, by_decoder)
    for one, other in zip(by_transform, by_decoder):
        assert psnr(other[:, 1].permute(1, 2, 0).numpy(), one[:, 1].permute(1, 2, 0).numpy()) > 30


@pytest.fixture
def clips(make_video, tmp_path) -> SampleList:
    path = make_video(width=320, height=180, num_frames=30)
    (tmp_path / "list.csv").write_text(f"{path} 0\n")
    return read_clips(ListRequest(str(tmp_path / "list.csv")))


@pytest.mark.parametrize("sampling", ["uniform", "inverse-uniform"])
def test_training_draws_the_same_frames_scales_crops_and_flips(sampling, clips):
    reader, flipped = FrameReader(timeout_seconds=0), set()
    for seed in range(6):
        by_transform, by_decoder = (
            TrainClips(clips, options(who, scale_sampling=sampling), reader)(
                0, torch.Generator().manual_seed(seed)
            ).inputs[0]
            for who in ("transform", "decoder")
        )
        pictures = [clip[:, 2].permute(1, 2, 0).numpy() for clip in (by_transform, by_decoder)]
        assert psnr(*pictures) > 26
        flipped.add(psnr(pictures[0][:, ::-1], pictures[1]) > 26)
    assert flipped == {False}


def test_frames_to_be_enlarged_are_the_transforms_bit_for_bit(make_video, tmp_path):
    (tmp_path / "list.csv").write_text(f"{make_video(width=80, height=64)} 0\n")
    small, reader = read_clips(ListRequest(str(tmp_path / "list.csv"))), FrameReader(timeout_seconds=0)
    pair = [
        TrainClips(small, options(who), reader)(0, torch.Generator().manual_seed(1)).inputs
        for who in ("transform", "decoder")
    ]
    assert torch.equal(*pair)


def test_runs_without_it_note_what_they_noted_before():
    assert "resize" not in PixelOptions().model_dump()
    assert "resize" not in ClipOptions().model_dump(mode="json")["pixels"]
    noted = options("decoder").model_dump(mode="json")
    assert noted["pixels"]["resize"] == "decoder"
    assert ClipOptions.model_validate(noted) == options("decoder")
