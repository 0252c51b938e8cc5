"""The decoders of clips, to be compared and timed on a user's files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from revit.common.report.loading_rates import Decoders
from revit.video.data.clips import eval_wanted, make_reader
from revit.video.data.decode import Backend, resolve_backend
from revit.video.data.decode.reader import FrameReader
from revit.video.data.options import ClipOptions, ViewOptions

ONE_VIEW = ViewOptions(num_temporal_views=1, num_crops=1)


@dataclass(frozen=True)
class ClipFrames:
    """The frames of a test's central clip, by one decoder."""

    options: ClipOptions
    reader: FrameReader

    def read(self, path: str) -> NDArray[np.uint8]:
        """uint8 (T, H, W, 3). `DecodeError` if it cannot be read."""
        return self.reader.read(path, lambda info: eval_wanted(info, self.options, ONE_VIEW))

    def close(self) -> None:
        """End the helper process."""
        self.reader.close()


def installed_decoders() -> tuple[str, ...]:
    """PyAV, which is always there and whose frames count, first."""
    found = ["pyav"]
    for name in get_args(Backend):
        if name in ("auto", *found):
            continue
        try:
            resolve_backend(name)
        except ValueError:
            continue
        found.append(name)
    return tuple(found)


def open_frames(options: Any, name: str) -> ClipFrames:
    """options: of a video run."""
    loading = options.data.loading.model_copy(update={"decoder": name})
    return ClipFrames(options.data, make_reader(loading))


CLIP_DECODERS = Decoders(
    "data.loading.decoder",
    installed_decoders,
    open_frames,
    "files of tools/convert_clips.py are read several times as fast",
)
