"""From options to loaders of pictures, and from one file to the pixels a model sees.

Letters: B samples, C channels, H and W height and width.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor

from revit.common.data import build
from revit.common.data.broken import BrokenSample
from revit.common.data.dataset import Sample, target_of
from revit.common.data.formats.base import Split
from revit.common.data.lists import SampleList
from revit.image.data.decode import check_shape, read_picture
from revit.image.data.lists import keep_classes, read_pictures
from revit.image.data.options import PictureOptions, TokenLabelOptions
from revit.image.data.transforms import FollowedTransform, eval_transform, train_transform


class LabelMaps:
    """Stored label maps of LV-ViT for one list of pictures: one small file per picture, read when the picture is.

    A map is a tensor (2, k, H, W), as a rule in half precision: the logits and the class numbers of the k best classes in
    every cell (published: k = 5, 18 x 18 cells, an NFNet-F6 at 576 px).

    num_classes: K of the model.  kept: for a class subset, its classes' numbers in the maps, in the model's order; other
    classes count as not named.
    """

    def __init__(self, options: TokenLabelOptions, num_classes: int, kept: Sequence[int] | None = None) -> None:
        if kept is not None and len(kept) > num_classes:
            raise ValueError(f"{len(kept)} classes kept, but the model has {num_classes}")
        self.options = options
        self.num_classes = num_classes
        self._new_number: Tensor | None = None
        if kept is not None:
            self._new_number = torch.full((max(kept, default=-1) + 2,), -1.0)  # the last is for all beyond
            self._new_number[list(kept)] = torch.arange(len(kept), dtype=torch.float32)

    def path(self, name: str) -> Path:
        """Return the file of the picture `name`, its path relative to the list's folder: n01440764/n01440764_18.JPEG.

        Of an absolute path the last folder and the name count (published rule).
        """
        relative = PurePosixPath(name.replace("\\", "/"))
        if relative.is_absolute():
            relative = PurePosixPath(*relative.parts[1:][-2:])
        return Path(self.options.folder) / relative.with_suffix(self.options.suffix)

    def read(self, name: str) -> Tensor:
        """Return a float32 map (2, k, H, W); entries of classes outside the subset have number -1.

        Raises BrokenSample if the file is missing, damaged, or holds something else than a label map of these classes.
        """
        path = self.path(name)
        stored = _only_tensor(_load(path), path)
        if stored.ndim != 4 or stored.shape[0] != 2 or 0 in stored.shape:
            raise BrokenSample(str(path), f"shape {tuple(stored.shape)} is no label map (2, k, rows, columns)")
        label_map = stored.float()
        if not label_map.isfinite().all():
            raise BrokenSample(str(path), "label map with values that are not finite")
        self._check_numbers(label_map[1], stored, path)
        if self._new_number is not None:
            numbers = label_map[1].long().clamp(max=len(self._new_number) - 1)
            label_map = torch.stack([label_map[0], self._new_number[numbers]])
        return label_map

    def crop(self, fractions: Tensor, picture_height: int, picture_width: int) -> Tensor:
        """Return a crop (4,), top, left, height, width, as fractions of what the map covers instead of the picture.

        With centre_square, parts of a crop outside the square lie beyond the map, where nothing is known: there the
        targets have all logits 0.
        """
        if self.options.covers == "picture":
            return fractions
        side = min(picture_height, picture_width)
        shown = fractions.new_tensor([picture_height, picture_width, picture_height, picture_width]) / side
        before = fractions.new_tensor([picture_height - side, picture_width - side, 0, 0]) / (2 * side)
        return fractions * shown - before

    def _check_numbers(self, numbers: Tensor, stored: Tensor, path: Path) -> None:
        lowest, highest = int(numbers.min()), int(numbers.max())
        if lowest < 0 or not torch.equal(numbers, numbers.round()):
            raise BrokenSample(str(path), "label map whose second half is no class numbers")
        if self._new_number is None and highest >= self.num_classes:
            raise BrokenSample(str(path), f"label map names class {highest}; the model has {self.num_classes} classes")
        # Half precision counts to 2048, then by twos.
        if stored.is_floating_point() and highest >= (exact := int(2 / torch.finfo(stored.dtype).eps)):
            reason = f"class {highest}, but {stored.dtype} holds numbers exactly only below {exact}"
            raise BrokenSample(str(path), f"{reason}; store the map in float32")


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        reason = "no label map of this picture; make one or set data.token_labels to null"
        raise BrokenSample(str(path), reason) from None
    except OSError as error:
        raise BrokenSample(str(path), f"label map cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise BrokenSample(str(path), "damaged label map, or one that only code could rebuild") from error
    except Exception as error:  # damaged bytes break the reader in any way there is
        raise BrokenSample(str(path), f"damaged label map ({type(error).__name__})") from error


def _only_tensor(content: Any, path: Path) -> Tensor:
    """Return the tensor of a file, bare or alone in a dictionary, list or tuple."""
    values = list(content.values()) if isinstance(content, Mapping) else content
    values = values if isinstance(values, list | tuple) else [values]
    tensors = [value for value in values if isinstance(value, Tensor)]
    if len(tensors) != 1:
        kind = type(content).__name__
        raise BrokenSample(str(path), f"a {kind} with {len(tensors)} tensors, where one label map is wanted")
    return tensors[0]


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
