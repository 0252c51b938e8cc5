"""How fast frames of AVI files are read, against the fastest of the bare readers that return the right ones.

    python benchmarks/avi.py                   about a minute
    python benchmarks/avi.py --json OUT

8 spread frames of 300, 340x256: MPEG-4 and H.264 with and without B-frames, key frames near and far, and a packed bitstream
as XviD writes it. Bare readers are PyAV and decord, each once from the start and once by seeking; what they return is compared
with a plain decode, and those that return other frames are named and left out. All take turns on one core; a ratio is of
processor time in one process, as bare readers decode; what the helper process adds, which no file can hang or crash, is shown
beside it. Median of the runs, smallest and largest.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from loading import INDICES, OURS, PROCESSOR, Reader, bare_decord, bare_pyav, one_run, spread_of, textured

from revit.common.system.files import write_json
from revit.common.system.machine import machine_name
from revit.video.data.decode.reader import FrameReader

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
from made_videos import packed, packets_of, remux

TARGET = 1.1
"""Times the fastest right bare reader."""
FILES = {
    "MPEG-4, key frame every 250, 2 B-frames": ("mpeg4", {"g": "250", "bf": "2"}),
    "MPEG-4, key frame every 250, 2 B-frames, packed": ("mpeg4", {"g": "250", "bf": "2"}),
    "MPEG-4, key frame every 12": ("mpeg4", {"g": "12", "bf": "0"}),
    "MPEG-4, key frame every 12, 2 B-frames": ("mpeg4", {"g": "12", "bf": "2"}),
    "H.264, key frame every 250, B-frames": ("libx264", {"g": "250"}),
    "H.264, key frame every 12, B-frames": ("libx264", {"g": "12"}),
}


def make_avi(path: Path, codec: str, options: dict[str, str]) -> Path:
    """The picture of `loading.make_clip` as AVI."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
        stream.options = options | ({"b": "900k"} if codec == "mpeg4" else {})
        for picture in textured(0, 300, 340, 256):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def seeking_pyav(path: str) -> np.ndarray:
    """To the key frame before each wanted time, and on from there."""
    frames = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number in INDICES:
            stamp = int(Fraction(number) / stream.average_rate / stream.time_base)
            container.seek(stamp, stream=stream)
            frame = next(
                (one for one in container.decode(stream) if one.pts is None or one.pts >= stamp), None
            )
            if frame is None:
                return np.empty(0)
            frames.append(frame.to_ndarray(format="rgb24"))
    return np.stack(frames)


def decord_in_order(path: str) -> np.ndarray:
    """One frame after the other, those between passed over."""
    import decord

    reader, frames, at = decord.VideoReader(path, num_threads=1), [], 0
    for number in INDICES:
        if number > at:
            reader.skip_frames(number - at)
        frames.append(reader.next().asnumpy())
        at = number + 1
    return np.stack(frames)


BARE: dict[str, Reader] = {
    "bare PyAV": bare_pyav,
    "bare PyAV, seeking": seeking_pyav,
    "bare decord": bare_decord,
    "bare decord, in order": decord_in_order,
}


def compare(name: str, path: str, num_runs: int, rounds: int, machine: str) -> dict[str, object]:
    """Print and return the ratio of one file. RuntimeError if this project's frames are not those of a plain decode."""
    expected = bare_pyav(path)
    right = {which: read for which, read in BARE.items() if np.array_equal(read(path), expected)}
    ours, same = FrameReader(), FrameReader(timeout_seconds=0)
    readers = {
        **right,
        OURS: lambda path: same.read(path, lambda _: INDICES),
        f"{OURS}, in a helper": lambda path: ours.read(path, lambda _: INDICES),
    }
    if not np.array_equal(readers[OURS](path), expected):
        raise RuntimeError(f"{name}: other frames than those of a plain decode")
    runs = [one_run(path, readers, ours, rounds) for _ in range(num_runs)]
    ours.close()
    times = {which: spread_of([run[which][PROCESSOR] for run in runs])[1] for which in readers}
    ratio = spread_of([run[OURS][PROCESSOR] / min(run[one][PROCESSOR] for one in right) for run in runs])
    wrong = [which for which in BARE if which not in right]
    print(
        f"{name}: {ratio[1]:.2f} times the fastest right one ({ratio[0]:.2f} to {ratio[2]:.2f}); target {TARGET}"
    )
    print("    " + ", ".join(f"{which} {milliseconds:.1f} ms" for which, milliseconds in times.items()))
    if wrong:
        print(f"    other frames than a plain decode: {', '.join(wrong)}")
    row = {"file": name, "ratio": ratio[1], "spread": [ratio[0], ratio[2]], "ms": times, "wrong": wrong}
    return row | {"runs": num_runs, "machine": machine}


def main() -> None:
    """Compare all files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="measurements, each of all readers (default 5)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every reader in a run (default 9)")
    parser.add_argument("--json", type=Path, help="write the ratios there")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    rows, machine = [], machine_name()
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (codec, options)) in enumerate(FILES.items()):
            path = make_avi(Path(folder) / f"{number}.avi", codec, options)
            if "packed" in name:
                source, path = path, Path(folder) / f"{number}.packed.avi"
                remux(source, path, packed(packets_of(source)[0]))
            rows.append(compare(name, str(path), arguments.runs, arguments.rounds, machine))
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
