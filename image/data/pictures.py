"""From options to loaders of pictures, and from one file to the pixels a model sees.

Letters: B samples, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Generator, Tensor

from revit.common.data import build
from revit.common.data.build import Split
from revit.common.data.dataset import Sample
from revit.common.data.lists import SampleList
from revit.image.data.decode import check_shape, read_picture
from revit.image.data.label_maps import LabelMaps
from revit.image.data.lists import keep_classes, read_pictures
from revit.image.data.options import PictureOptions
from revit.image.data.transforms import FollowedTransform, eval_transform, train_transform


def read_split(options: PictureOptions, split: Split) -> SampleList:
    """Read the list of one split, see `revit.common.data.build.read_split`; of `source.classes` where that is given."""
    source = options.source

    def read(where: str, names: Sequence[str] | None) -> SampleList:
        return read_pictures(where, separator=source.separator, prefix=source.prefix, names=names)

    pictures = build.read_split(source, split, read)
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
        return Sample(self.transform(_read(self.pictures, index))[None], self.pictures.label(index))


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
        return Sample(pixels[None], self.pictures.label(index), {"label_map": label_map, "crop": crop})


@dataclass
class EvalPictures:
    """Reads one picture as it is evaluated, without anything random: the `load` of an evaluation data set."""

    pictures: SampleList
    options: PictureOptions

    def __call__(self, index: int, generator: Generator) -> Sample:
        """Return uint8 (1, C, H, W) and its class number."""
        pixels = _eval_pixels(self.pictures.path(index), _read(self.pictures, index), self.options)
        return Sample(pixels, self.pictures.label(index))


def load_picture(path: str, options: PictureOptions) -> Tensor:
    """Read the pixels of one file as in an evaluation, uint8 (1, C, H, W). Raises BrokenSample if it cannot be read."""
    return _eval_pixels(path, read_picture(path), options)


def _eval_pixels(path: str, picture: Image.Image, options: PictureOptions) -> Tensor:
    check_shape(path, picture, options.pixels.size)
    return eval_transform(options.pixels)(picture)[None]


def _read(pictures: SampleList, index: int) -> Image.Image:
    return read_picture(pictures.path(index), lambda: pictures.open(index))
