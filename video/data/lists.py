"""Lists of labelled clips: Kinetics-style files and folder-per-class trees."""

from __future__ import annotations

from collections.abc import Sequence

from revit.common.data.lists import SampleList
from revit.common.data.read_lists import read_samples

EXTENSIONS = tuple(
    ".mp4 .avi .mov .mkv .webm .m4v .mpg .mpeg .wmv .asf .flv .f4v .3gp .3g2 .ts .mts .m2ts .vob .m2v .ogv .divx .mxf".split()  # noqa: SIM905
)
"""Files of a tree that are taken for clips. pytorchvideo's own tree reader takes .mp4 and .avi and silently leaves out
the rest; classes are numbered as it numbers them."""


def read_clips(
    source: str, *, separator: str = " ", prefix: str = "", names: Sequence[str] | None = None, several: bool = False
) -> SampleList:
    """Read a list file or a folder-per-class tree of clips. See `revit.common.data.read_lists`."""
    return read_samples(source, "clips", EXTENSIONS, separator=separator, prefix=prefix, names=names, several=several)
