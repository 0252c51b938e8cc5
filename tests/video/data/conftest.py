"""Video files whose frames carry their own number."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

NUM_BITS = 10


def painted(number: int, width: int, height: int) -> np.ndarray:
    """RGB picture (height, width, 3) with `number` as ten black or white columns in its middle, over moving colours."""
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.stack(
        [(columns * 3 + number * 5) % 256, (rows * 4 + number * 3) % 256, (rows + columns) * 2 % 256], -1
    )
    top, bottom = height // 4, 3 * height // 4
    for bit in range(NUM_BITS):
        picture[top:bottom, bit * width // NUM_BITS : (bit + 1) * width // NUM_BITS] = 255 * (number >> bit & 1)
    return picture.astype(np.uint8)


def read_number(picture: np.ndarray) -> int:
    """The number that `painted` put there, from an upright picture."""
    height, width, _ = picture.shape
    row = picture[height // 2 - 4 : height // 2 + 4].mean(axis=(0, 2))
    return sum(int(row[int((bit + 0.5) * width / NUM_BITS)] > 127) << bit for bit in range(NUM_BITS))


def tag_rotation(path: Path, degrees: int) -> None:
    """Write the display matrix of an MP4's track header, as cameras do that were held sideways."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    rows = (cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30)
    data = bytearray(path.read_bytes())
    matrix_at = data.rindex(b"tkhd") + 44
    struct.pack_into(">9i", data, matrix_at, *rows)
    path.write_bytes(data)


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., str]:
    """Writes a file of `num_frames` numbered frames and returns its path."""

    def make(
        name: str = "clip.mp4",
        num_frames: int = 60,
        width: int = 160,
        height: int = 96,
        codec: str = "libx264",
        fps: int = 30,
        pixel_format: str = "yuv420p",
        options: dict[str, str] | None = None,
        container_options: dict[str, str] | None = None,
        rotation: int = 0,
        times: list[int] | None = None,
        colorspace: int | None = None,
        color_range: int | None = None,
    ) -> str:
        path = str(tmp_path / name)
        with av.open(path, "w", options=container_options or {}) as container:
            stream = container.add_stream(codec, rate=fps)
            stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
            stream.codec_context.thread_count = 1
            if options:
                stream.options = options
            if colorspace is not None:
                stream.codec_context.colorspace = colorspace
            if color_range is not None:
                stream.codec_context.color_range = color_range
            for number in range(num_frames):
                frame = av.VideoFrame.from_ndarray(painted(number, width, height), format="rgb24")
                if times is not None:
                    frame.pts = times[number]
                for packet in stream.encode(frame):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        if rotation:
            tag_rotation(Path(path), rotation)
        return path

    return make


@pytest.fixture
def numbers_of() -> Callable[[np.ndarray], list[int]]:
    """Reads the numbers painted into frames (n, H, W, 3)."""
    return lambda frames: [read_number(frame) for frame in frames]
