"""Every kind of picture becomes upright RGB; every kind of damage is one line about a broken sample."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from revit.common.data.broken import BrokenSample
from revit.image.data.decode import check_shape, read_picture


def saved(tmp_path, picture: Image.Image, name: str = "a.png", **options) -> str:
    path = str(tmp_path / name)
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb_as_pil_converts_it(tmp_path, quarters, mode):
    name = "a.tif" if mode in ("CMYK", "YCbCr") else "a.png"
    path = saved(tmp_path, quarters.convert(mode), name)
    picture = read_picture(path)
    assert picture.mode == "RGB"
    with Image.open(path) as expected:
        assert np.array_equal(np.asarray(picture), np.asarray(expected.convert("RGB")))


def test_transparent_palettes_keep_their_colours(tmp_path, quarters, recwarn):
    palette = quarters.convert("P", palette=Image.Palette.ADAPTIVE)
    path = saved(tmp_path, palette, transparency=bytes([0] * 256))
    assert np.array_equal(np.asarray(read_picture(path)), np.asarray(palette.convert("RGB")))
    assert not recwarn.list


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_keep_the_upper_eight(tmp_path, name):
    grey = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
    picture = read_picture(saved(tmp_path, Image.fromarray(grey), name))
    assert np.array_equal(np.asarray(picture)[..., 1], grey // 256)


def test_pictures_with_unknown_range_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.ones((8, 8), dtype=np.float32)), "a.tif")
    with pytest.raises(BrokenSample, match="mode F"):
        read_picture(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_upright(tmp_path, quarters, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, quarters, "a.png", exif=exif)
    with Image.open(path) as stored:
        expected = ImageOps.exif_transpose(stored)
    picture = read_picture(path)
    assert np.array_equal(np.asarray(picture), np.asarray(expected))
    assert (picture.size == quarters.size) == (orientation <= 4)


def test_damaged_exif_data_does_not_cost_the_picture(tmp_path, quarters):
    path = saved(tmp_path, quarters, "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffrubbish")
    assert read_picture(path).size == quarters.size


def test_of_an_animation_the_first_picture_is_taken(tmp_path, quarters):
    path = saved(tmp_path, quarters, "a.gif", save_all=True, append_images=[ImageOps.mirror(quarters)])
    assert np.array_equal(np.asarray(read_picture(path)), np.asarray(quarters))


def bomb(width: int, height: int) -> bytes:
    """A PNG that promises more pixels than it has."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda good: b"", r"the file is empty \(0 bytes\)"),
        (lambda good: b"hello" * 100, "not a picture"),
        (lambda good: good[: len(good) // 2], r"damaged picture \(.*truncated"),
        (lambda good: good[:20], "not a picture|damaged picture"),
        (lambda good: bomb(100_000, 100_000), "too many pixels"),
        (lambda good: bomb(100, 100), "damaged picture"),
    ],
)
def test_damage_is_one_line(tmp_path, content, reason):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    good = Path(saved(tmp_path, Image.fromarray(noise), "good.jpg")).read_bytes()
    path = tmp_path / "bad.jpg"
    path.write_bytes(content(good))
    with pytest.raises(BrokenSample, match=reason) as caught:
        read_picture(str(path))
    assert caught.value.path == str(path)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(BrokenSample, match="no such file or directory"):
        read_picture(str(tmp_path / "none.jpg"))
    with pytest.raises(BrokenSample, match="is a directory"):
        read_picture(str(tmp_path))


def test_lines_of_pixels_are_refused():
    check_shape("a.png", Image.new("RGB", (224, 1)), (224, 224))
    with pytest.raises(BrokenSample, match=r"1x30000 .* 224x224"):
        check_shape("a.png", Image.new("RGB", (1, 30000)), (224, 224))
