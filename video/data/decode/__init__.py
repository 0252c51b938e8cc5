"""Video files to frames by number: `read_frames` here, `FrameReader` in a process that cannot hang the caller's."""

from revit.video.data.decode.index import VideoInfo
from revit.video.data.decode.opening import DecodeError
from revit.video.data.decode.read import (
    Backend,
    ChooseIndices,
    Damaged,
    DecoderError,
    FrameNumberError,
    Wanted,
    checked,
    probe,
    read_frames,
    resolve_backend,
    salvage_frames,
)

__all__ = [
    "Backend",
    "ChooseIndices",
    "Damaged",
    "DecodeError",
    "DecoderError",
    "FrameNumberError",
    "VideoInfo",
    "Wanted",
    "checked",
    "probe",
    "read_frames",
    "resolve_backend",
    "salvage_frames",
]
