"""Lists of labelled pictures: files of lines, folder-per-class trees, tar files; and class subsets of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from revit.common.data.label_names import check_label, read_label_names
from revit.common.data.lists import SampleList
from revit.common.data.read_lists import read_samples
from revit.common.system.errors import UserError
from revit.image.data.tar import is_tar, read_tar

EXTENSIONS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Files of a tree or tar file that are taken for pictures; lists may name any file."""

Classes = int | str | Sequence[str | int]


def read_pictures(
    source: str, *, separator: str = " ", prefix: str = "", names: Sequence[str] | None = None
) -> SampleList:
    """Read a list file, a folder-per-class tree, a tar file or a folder of tar files, whichever `source` is."""
    if is_tar(source):
        return read_tar(source, EXTENSIONS, names)
    return read_samples(source, "pictures", EXTENSIONS, separator=separator, prefix=prefix, names=names)


def keep_classes(samples: SampleList, classes: Classes) -> SampleList:
    """The samples of some classes, numbered anew in the order given; classes without a name are called by their number.

    classes: names or numbers, a file that lists them, or N for the first N.

    `UserError` if a class is unknown or given twice, or no sample is left.
    """
    numbers = _numbers(samples, classes)
    positions = np.flatnonzero(np.isin(samples.labels, numbers))
    if not len(positions):
        raise UserError(
            f"{samples.source}: none of its pictures is of the {len(numbers)} classes of source.classes"
        )
    names = [samples.names[number] if samples.names is not None else str(number) for number in numbers]
    return samples.take(positions, numbers, names)


def _numbers(samples: SampleList, classes: Classes) -> list[int]:
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
    twice = [number for number, times in Counter(numbers).items() if times > 1]
    if twice:
        raise UserError(f"{where}: classes appear more than once: {', '.join(map(str, twice[:5]))}")
    if not numbers:
        raise UserError(f"{where}: no class in it; leave source.classes out for all {count}")
    return numbers
