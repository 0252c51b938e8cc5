"""From options to loaders of pictures, and one file to the pixels a model sees.

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
from revit.common.data.loader import Loader
from revit.image.data.decode import check_shape, read_picture
from revit.image.data.followed import FollowedTransform
from revit.image.data.label_maps import LabelMaps
from revit.image.data.lists import keep_classes, read_pictures
from revit.image.data.options import PictureOptions
from revit.image.data.transforms import eval_transform, train_transform


def read_split(options: PictureOptions, split: Split) -> SampleList:
    """The pictures of one split, see `revit.common.data.build.read_split`; of `source.classes` where that is given."""
    source = options.source

    def read(where: str, names: Sequence[str] | None) -> SampleList:
        return read_pictures(where, separator=source.separator, prefix=source.prefix, names=names)

    pictures = build.read_split(source, split, read)
    return pictures if source.classes is None else keep_classes(pictures, source.classes)


def build_train_loader(
    options: PictureOptions,
    batch_size: int,
    seed: int,
    *,
    pictures: SampleList | None = None,
    num_classes: int | None = None,
    rank: int = 0,
    num_ranks: int = 1,
) -> Loader:
    """Shuffled, augmented pictures, uint8 (B, C, H, W). Broken files, and those without label map, are replaced.

    pictures: the list, if it was read already.  num_classes: the model's, if not the list's.  The rest, and errors, as
    `revit.common.data.build.train_loader`.

    With `token_labels` batches carry the extras `label_map` (B, 2, k, h, w) and `crop` (B, 4), fractions of the map: top,
    left, height, width.
    """
    pictures = pictures if pictures is not None else read_split(options, "train")
    load: TrainPictures | MappedPictures
    if options.token_labels is None:
        load = TrainPictures(pictures, train_transform(options.pixels, options.augment))
    else:
        label_maps = LabelMaps.from_options(
            options.token_labels, num_classes or pictures.num_classes, pictures.kept
        )
        load = MappedPictures(pictures, label_maps, FollowedTransform(options.pixels, options.augment))
    return build.train_loader(
        load,
        pictures,
        options.loading,
        batch_size,
        seed,
        repeats=options.augment.repeats,
        rank=rank,
        num_ranks=num_ranks,
    )


def build_eval_loader(
    options: PictureOptions,
    split: Split,
    batch_size: int,
    *,
    pictures: SampleList | None = None,
    rank: int = 0,
    num_ranks: int = 1,
) -> Loader:
    """Every picture of a split once, in list order, uint8 (B, C, H, W), resized and cropped.

    The rest as `revit.common.data.build.eval_loader`.
    """
    pictures = pictures if pictures is not None else read_split(options, split)
    load = EvalPictures(pictures, options)
    return build.eval_loader(load, pictures, options.loading, batch_size, rank=rank, num_ranks=num_ranks)


def load_picture(path: str, options: PictureOptions) -> Tensor:
    """The pixels of one file as in an evaluation, uint8 (1, C, H, W). `BrokenSample` if it cannot be read."""
    return eval_pixels(path, read_picture(path), options)


def eval_pixels(path: str, picture: Image.Image, options: PictureOptions) -> Tensor:
    """uint8 (1, C, H, W). `BrokenSample`, calling the picture `path`, if it is too narrow to be resized."""
    check_shape(path, picture, options.pixels.size)
    return eval_transform(options.pixels)(picture)[None]


@dataclass
class TrainPictures:
    """Reads one augmented picture: the `load` of a training data set."""

    pictures: SampleList
    transform: Callable[[Image.Image], Tensor]

    def __call__(self, index: int, generator: Generator) -> Sample:
        """uint8 (1, C, H, W) and its class number."""
        picture = _read(self.pictures, index)
        return Sample(self.transform(picture)[None], self.pictures.label(index))


@dataclass
class MappedPictures:
    """Reads one augmented picture with its label map: the `load` of a training data set with token labels."""

    pictures: SampleList
    label_maps: LabelMaps
    transform: FollowedTransform

    def __call__(self, index: int, generator: Generator) -> Sample:
        """uint8 (1, C, H, W), its class number, its label map moved like it, and where the crop lies on the map."""
        label_map = self.label_maps.read(self.pictures.name(index))
        picture = _read(self.pictures, index)
        pixels, label_map, crop = self.transform(picture, label_map)
        crop = self.label_maps.crop(crop, picture.height, picture.width)
        return Sample(pixels[None], self.pictures.label(index), {"label_map": label_map, "crop": crop})


@dataclass
class EvalPictures:
    """Reads one picture as it is evaluated: the `load` of an evaluation data set."""

    pictures: SampleList
    options: PictureOptions

    def __call__(self, index: int, generator: Generator) -> Sample:
        """uint8 (1, C, H, W) and its class number. Nothing is random."""
        picture = _read(self.pictures, index)
        pixels = eval_pixels(self.pictures.path(index), picture, self.options)
        return Sample(pixels, self.pictures.label(index))


def _read(pictures: SampleList, index: int) -> Image.Image:
    return read_picture(pictures.path(index), lambda: pictures.open(index))
