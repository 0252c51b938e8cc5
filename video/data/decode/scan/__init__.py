"""Look into packets: the frames each holds, their order, where decoding can begin."""

from __future__ import annotations

from av.video.codeccontext import VideoCodecContext

from revit.video.data.decode.scan.h264 import H264Scanner
from revit.video.data.decode.scan.hevc import HevcScanner
from revit.video.data.decode.scan.mpeg import Mpeg2Scanner, Mpeg4Scanner
from revit.video.data.decode.scan.others import OTHERS
from revit.video.data.decode.scan.packets import InOrderScanner, Scanner, UnknownScanner


def scanner_for(codec: VideoCodecContext) -> Scanner:
    """Make the scanner of a stream's codec."""
    name, header = codec.codec.canonical_name, codec.extradata or b""
    if name == "h264":
        return H264Scanner(header)
    if name == "hevc":
        return HevcScanner(header)
    if name == "mpeg4":
        return Mpeg4Scanner(header)
    if name in ("mpeg1video", "mpeg2video"):
        return Mpeg2Scanner()
    if name in OTHERS:
        return OTHERS[name]()
    return InOrderScanner() if codec.codec.intra_only else UnknownScanner()
