"""From options to loaders of pictures, and from one file to the pixels a model sees.

Pictures come upright (their EXIF orientation is applied; the published pipelines ignore it, which concerns a few pictures
of ImageNet). Alpha is dropped, palettes, grey, CMYK and other colour spaces become RGB as PIL converts them, all as the
published pipelines do. Grey pictures of 16 bits keep their upper 8 (PIL would cut everything above 255 to white). Of
animations the first picture is taken. Pixels of 32-bit integers or floats have no known range and are refused.

Letters: B samples, C channels, H and W height and width.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Generator, Tensor

from revit.common.data import build
from revit.common.data.broken import BrokenSample
from revit.common.data.dataset import Sample, target_of
from revit.common.data.formats.base import Split
from revit.common.data.lists import SampleList
from revit.image.data.label_maps import LabelMaps
from revit.image.data.lists import keep_classes, read_pictures
from revit.image.data.options import PictureOptions
from revit.image.data.transforms import FollowedTransform, eval_transform, train_transform


def read_split(options: PictureOptions, split: Split) -> SampleList:
    """Read the list of one split, see `revit.common.data.build.read_split`; of `source.classes` where that is given."""
    source = options.source
    pictures = build.read_split(source, split, read_pictures)
    return pictures if source.classes is None else keep_classes(pictures, source.classes)


def train_load(options: PictureOptions, pictures: SampleList, num_classes: int) -> TrainPictures | MappedPictures:
    """Return the reader of augmented pictures, with label maps if there are `token_labels`; num_classes: the model's."""
    if options.token_labels is None:
        return TrainPictures(pictures, train_transform(options.pixels, options.augment))
    label_maps = LabelMaps(options.token_labels, num_classes, pictures.kept)
    return MappedPictures(pictures, label_maps, FollowedTransform(options.pixels, options.augment))


@dataclass
class TrainPictures:
    """Reads one augmented picture: the `load` of a training data set."""

    pictures: SampleList
    transform: Callable[[Image.Image], Tensor]

    def __call__(self, index: int, generator: Generator) -> Sample:
        """Return uint8 (1, C, H, W) and its class number."""
        return Sample(self.transform(_read(self.pictures, index))[None], target_of(self.pictures, index))


@dataclass
class MappedPictures:
    """Reads one augmented picture with its label map: the `load` of a training data set with token labels."""

    pictures: SampleList
    label_maps: LabelMaps
    transform: FollowedTransform

    def __call__(self, index: int, generator: Generator) -> Sample:
        """Return uint8 (1, C, H, W) and its class number, with the extras `label_map` (2, k, h, w), moved like the picture, and
        `crop` (4,), fractions of the map: top, left, height, width."""
        label_map = self.label_maps.read(self.pictures.name(index))
        picture = _read(self.pictures, index)
        pixels, label_map, crop = self.transform(picture, label_map)
        crop = self.label_maps.crop(crop, picture.height, picture.width)
        return Sample(pixels[None], target_of(self.pictures, index), {"label_map": label_map, "crop": crop})


@dataclass
class EvalPictures:
    """Reads one picture as it is evaluated, without anything random: the `load` of an evaluation data set."""

    pictures: SampleList
    options: PictureOptions

    def __call__(self, index: int, generator: Generator) -> Sample:
        """Return uint8 (1, C, H, W) and its class number."""
        pixels = _eval_pixels(self.pictures.path(index), _read(self.pictures, index), self.options)
        return Sample(pixels, target_of(self.pictures, index))


def load_picture(path: str, options: PictureOptions) -> Tensor:
    """Read the pixels of one file as in an evaluation, uint8 (1, C, H, W). Raises BrokenSample if it cannot be read."""
    return _eval_pixels(path, read_picture(path), options)


def _eval_pixels(path: str, picture: Image.Image, options: PictureOptions) -> Tensor:
    check_shape(path, picture, options.pixels.size)
    return eval_transform(options.pixels)(picture)[None]


def _read(pictures: SampleList, index: int) -> Image.Image:
    return read_picture(pictures.path(index), lambda: pictures.open(index))


# -- decoding ------------------------------------------------------------------------------------------------------------


def read_picture(path: str, open_file: Callable[[], BinaryIO] | None = None) -> Image.Image:
    """Read a picture in RGB. open_file: opens its contents, where `path` is only what messages call it.

    Raises BrokenSample if there is none.
    """
    try:
        with open_file() if open_file is not None else open(path, "rb") as file:
            return _decode(path, file)
    except OSError as error:
        raise BrokenSample(path, (error.strerror or str(error)).lower()) from None


def check_shape(path: str, picture: Image.Image, size: tuple[int, int]) -> None:
    """Raise BrokenSample for a line of pixels: resized for `size` (height, width), it is empty or beyond all memory."""
    if max(picture.size) > min(picture.size) * min(size):
        width, height = picture.size
        raise BrokenSample(path, f"{width}x{height} pixels are too narrow for a crop of {size[0]}x{size[1]}")


def _decode(path: str, file: BinaryIO) -> Image.Image:
    if file.seek(0, os.SEEK_END) == 0:
        raise BrokenSample(path, "the file is empty (0 bytes)")
    file.seek(0)
    try:
        # PIL warns of what it repairs (odd EXIF data, large pictures): once for every epoch and worker.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as picture:
                picture.load()
                with contextlib.suppress(Exception):  # damaged EXIF data says nothing; the pixels are whole
                    ImageOps.exif_transpose(picture, in_place=True)
                return _to_rgb(path, picture)
    except BrokenSample:
        raise
    except UnidentifiedImageError:
        raise BrokenSample(path, "not a picture, or of a kind that PIL does not know") from None
    except Image.DecompressionBombError:
        raise BrokenSample(path, "too many pixels (PIL opens up to 179 million); make it smaller") from None
    except Exception as error:  # damaged bytes break PIL's readers in any way there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenSample(path, f"damaged picture ({reason})") from None


def _to_rgb(path: str, picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture  # convert() would copy it
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise BrokenSample(path, f"pixels of 32 bits (PIL's mode {picture.mode}); save it with 8 or 16")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # the same colours, without PIL's warning
    return picture.convert("RGB")
