"""Lists of labelled pictures, in the formats of the field, and class subsets of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from revit.common.data.formats.base import Format, ListRequest, read_source
from revit.common.data.formats.metadata import HuggingFaceFolder
from revit.common.data.formats.path_label import ClassFolders, PathLabel
from revit.common.data.formats.table import Table
from revit.common.data.formats.tar_shards import TarShards
from revit.common.data.label_names import check_label, read_label_names
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError

PICTURE_FORMATS: tuple[Format, ...] = (HuggingFaceFolder(), TarShards(), ClassFolders(), Table(), PathLabel())

EXTENSIONS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Files of a tree or tar file that are taken for pictures; lists may name any file."""


def read_pictures(request: ListRequest) -> SampleList:
    """Read a list or folder of pictures in any of `PICTURE_FORMATS`. UserError if it is in none of them, or faulty."""
    return read_source(replace(request, noun="pictures", extensions=EXTENSIONS), PICTURE_FORMATS)


def keep_classes(samples: SampleList, classes: int | str | Sequence[str | int]) -> SampleList:
    """Return the samples of some classes, numbered anew in the order given; classes without a name are called by their number.

    classes: names or numbers, a file that lists them, or N for the first N.

    Raises UserError if a class is unknown or given twice, or no sample is left.
    """
    numbers = _class_numbers(samples, classes)
    positions = np.flatnonzero(np.isin(samples.labels, numbers))
    if not len(positions):
        raise UserError(f"{samples.source}: none of its pictures is of the {len(numbers)} classes of source.classes")
    names = [samples.names[number] if samples.names is not None else str(number) for number in numbers]
    return samples.take(positions, numbers, names)


def _class_numbers(samples: SampleList, classes: int | str | Sequence[str | int]) -> list[int]:
    count = samples.num_classes
    if isinstance(classes, int):
        if not 1 <= classes <= count:
            raise UserError(f"{samples.source}: source.classes is {classes}, but there are {count} classes")
        return list(range(classes))
    where = classes if isinstance(classes, str) else "source.classes"
    wanted = read_label_names(classes) if isinstance(classes, str) else classes
    number_of = {name: number for number, name in enumerate(samples.names or map(str, range(count)))}
    try:
        numbers = [check_label(str(label), number_of) for label in wanted]
    except ValueError as error:
        raise UserError(f"{where}: {error} of {samples.source}") from None
    if twice := [number for number, times in Counter(numbers).items() if times > 1]:
        raise UserError(f"{where}: classes appear more than once: {', '.join(map(str, twice[:5]))}")
    if not numbers:
        raise UserError(f"{where}: no class in it; leave source.classes out for all {count}")
    return numbers
