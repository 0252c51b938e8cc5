"""Lists of labelled clips: Kinetics-style files, folder-per-class trees, and pytorchvideo's labelled paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from revit.common.data.lists import SampleList
from revit.common.data.read_lists import read_samples

if TYPE_CHECKING:
    from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

EXTENSIONS = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"),
    *(
        ".wmv",
        ".asf",
        ".flv",
        ".f4v",
        ".3gp",
        ".3g2",
        ".ts",
        ".mts",
        ".m2ts",
        ".vob",
        ".m2v",
        ".ogv",
        ".divx",
        ".mxf",
    ),
)
"""Files of a tree that are taken for clips. pytorchvideo's own tree reader takes .mp4 and .avi and silently leaves out
the rest; classes are numbered as it numbers them."""


def read_clips(
    source: str, *, separator: str = " ", prefix: str = "", names: Sequence[str] | None = None
) -> SampleList:
    """Read a list file or a folder-per-class tree of clips. See `revit.common.data.read_lists`."""
    return read_samples(source, "clips", EXTENSIONS, separator=separator, prefix=prefix, names=names)


def from_labeled_paths(
    paths: LabeledVideoPaths, names: Sequence[str] | None = None, source: str = "labelled paths"
) -> SampleList:
    """From pytorchvideo's reader of labelled paths."""
    items = (paths[position] for position in range(len(paths)))
    return SampleList.build(((path, item["label"]) for path, item in items), names, source, "clips")
