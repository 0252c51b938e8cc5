"""torchcodec gives PyAV's frames, or leaves them to PyAV. Where it is not installed, a stand-in of its interface is asked."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
import torch

from revit.common.system.errors import UserError
from revit.video.data.clips import make_reader
from revit.video.data.decode import libraries
from revit.video.data.decode.index import index_frames
from revit.video.data.decode.read import read_frames, resolve_backend
from revit.video.data.options import ClipLoadingOptions

pytestmark = pytest.mark.filterwarnings("ignore")  # the encoders' chatter

FORMATS = {
    "b_frames": {"options": {"bf": "3", "g": "12"}},
    "rotated": {"rotation": 90, "num_frames": 20},
    "bt709": {"colorspace": 1, "pixel_format": "yuvj420p"},
    "ten_bit": {"pixel_format": "yuv420p10le", "num_frames": 20},
    "transport": {"name": "clip.ts", "options": {"bf": "2", "g": "15"}},
    "odd": {"width": 161, "height": 97, "pixel_format": "yuv444p", "num_frames": 20},
}


class VideoDecoder:
    """What is used of torchcodec's class, as its documentation describes it, by decoding the whole file with PyAV."""

    def __init__(
        self,
        source: str,
        *,
        dimension_order: str = "NCHW",
        num_ffmpeg_threads: int = 1,
        device: str = "cpu",
        seek_mode: str = "exact",
    ) -> None:
        assert (dimension_order, device, seek_mode) == ("NHWC", "cpu", "exact")
        with av.open(source) as container:
            frames = list(container.decode(video=0))
        turns = [round(frame.rotation / 90) % 4 for frame in frames]
        pictures = [frame.to_ndarray(format="rgb24", interpolation="BILINEAR") for frame in frames]
        self.frames = np.stack([np.rot90(picture, turn) for picture, turn in zip(pictures, turns)])

    def __len__(self) -> int:
        return len(self.frames)

    def get_frames_at(self, indices: list[int]) -> SimpleNamespace:
        return SimpleNamespace(data=torch.from_numpy(self.frames[indices]))


@pytest.fixture
def torchcodec(monkeypatch):
    """The decoders' module: the real one where it is installed."""
    if importlib.util.find_spec("torchcodec") is None:
        package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
        package.decoders, decoders.VideoDecoder = decoders, VideoDecoder
        monkeypatch.setitem(sys.modules, "torchcodec", package)
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    import torchcodec.decoders

    return torchcodec.decoders


@pytest.mark.parametrize("name", FORMATS)
def test_frames_are_those_of_pyav(name, torchcodec, make_video, numbers_of):
    path = make_video(**FORMATS[name])
    wanted = [11, 3, 3, 19]
    frames = read_frames(path, lambda _: wanted, "torchcodec")
    assert np.array_equal(frames, read_frames(path, lambda _: wanted, "pyav"))
    if name != "rotated":
        assert numbers_of(frames) == wanted


@pytest.mark.parametrize("name", ["b_frames", "bt709", "rotated"])
def test_it_is_really_asked(name, torchcodec, make_video):
    path = make_video(**FORMATS[name])
    index = index_frames(path)
    assert libraries.suits("torchcodec", index)
    index.container.close()
    frames = libraries.read("torchcodec", index, np.array([2, 17]))
    assert frames is not None
    assert np.array_equal(frames, read_frames(path, lambda _: [2, 17], "pyav"))


def test_files_that_it_refuses_are_read_by_pyav(torchcodec, make_video, numbers_of, monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("no")

    monkeypatch.setattr(torchcodec, "VideoDecoder", refuse)
    assert numbers_of(read_frames(make_video(), lambda _: [5, 7], "torchcodec")) == [5, 7]


def test_another_count_of_frames_is_not_believed(torchcodec, make_video, numbers_of, monkeypatch):
    class Short(torchcodec.VideoDecoder):
        def __len__(self) -> int:
            return 59

    monkeypatch.setattr(torchcodec, "VideoDecoder", Short)
    assert numbers_of(read_frames(make_video(), lambda _: [5, 7], "torchcodec")) == [5, 7]


def test_where_it_cannot_be_loaded_that_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ValueError, match=r"'torchcodec' is not installed .* FFmpeg libraries"):
        resolve_backend("torchcodec")
    with pytest.raises(UserError, match=r"data\.loading\.decoder: decoder 'torchcodec'"):
        make_reader(ClipLoadingOptions(decoder="torchcodec"))
