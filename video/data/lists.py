"""Lists of labelled clips, in the formats of the field."""

from __future__ import annotations

from dataclasses import replace

from revit.common.data.formats.base import ListRequest, read_source
from revit.common.data.lists import SampleList
from revit.video.data.formats import CLIP_FORMATS

EXTENSIONS = tuple(
    ".mp4 .avi .mov .mkv .webm .m4v .mpg .mpeg .wmv .asf .flv .f4v .3gp .3g2 .ts .mts .m2ts .vob .m2v .ogv .divx .mxf".split()  # noqa: SIM905
)
"""Files of a tree that are taken for clips. pytorchvideo's own tree reader takes .mp4 and .avi and silently leaves out
the rest; classes are numbered as it numbers them."""


def read_clips(request: ListRequest) -> SampleList:
    """Read a list or folder of clips in any of `CLIP_FORMATS`. UserError if it is in none of them, or faulty."""
    return read_source(replace(request, noun="clips", extensions=EXTENSIONS), CLIP_FORMATS)
