"""Action recognition on the shared core: decoding, TimeSformer, ReViT-TimeSformer. Imports `revit.common` only."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from revit.common.serving.engine import Engine
    from revit.video.data.decode.read import Backend, Damaged, VideoInfo

if __name__ == "video":
    raise ImportError(
        "'video' was imported without its root, which would make a second copy of every class in it. "
        "Install the project (make install) and import 'revit.video' instead."
    )


def read_frames(
    path: str | os.PathLike[str], numbers: ArrayLike, decoder: Backend = "auto", *, damaged: Damaged = "refuse"
) -> NDArray[np.uint8]:
    """Read frames of a video file by their numbers: uint8 (n, H, W, 3), RGB, upright.

    Frame k is the k-th one that a plain decode of the whole file hands out, with any decoder and in any kind of file.

    numbers: in any order, repeats allowed.  decoder: `auto` (PyAV), `pyav`, `decord` or `torchcodec`; PyAV reads what a decoder
    is not proved to read so.  damaged: `refuse` raises for a file that is damaged where it is read; `salvage` decodes the whole
    file with PyAV, and numbers and reads the frames that are whole, as `probe` counts them then.

    Decodes in this process; `revit.video.data.decode.reader.FrameReader` does so in one of its own that may crash or hang.

    Raises:
        DecodeError: no readable video; it says why.
        FrameNumberError: a number outside the file.
        DecoderError: the decoder is not installed.
    """
    from revit.video.data.decode.read import read_frames, salvage_frames

    if damaged == "salvage":
        return salvage_frames(os.fspath(path), numbers)
    return read_frames(os.fspath(path), lambda _: numbers, decoder)


def probe(path: str | os.PathLike[str], *, damaged: Damaged = "refuse") -> VideoInfo:
    """Return num_frames, fps, duration_seconds, width and height (upright), rotation and num_lost of a video file.

    num_frames is what the packets hold; all of a file is decoded only where that does not tell. damaged: `salvage` decodes all
    in any case, and counts the frames that are whole, and in num_lost the others.

    Raises:
        DecodeError: no readable video; it says why.
    """
    from revit.video.data.decode.read import probe

    return probe(os.fspath(path), damaged)


def load(checkpoint: str, **how: Any) -> Engine:
    """Open a classifier of clips: ours or a run's folder, or weights made elsewhere (see `open_classifier`). UserError.

    `how`: see `revit.common.serving.engine.Engine`, such as views, grid, topk, budget, device, dtype.
    """
    # Imported here: processes that only decode start without torch.
    from revit.common.serving.engine import Engine
    from revit.video.modality import open_classifier

    return Engine(open_classifier(checkpoint), **how)
