"""Measure how fast and how steadily clips are read, against bare decord, bare PyAV and pytorchvideo.

    python benchmarks/loading.py mp4       8 spread frames of a 10 s H.264 file, key frames far and near; two minutes
    python benchmarks/loading.py avi       the same of AVI files: MPEG-4 and H.264, with and without B-frames, packed as by XviD
    python benchmarks/loading.py resize    only what data.pixels.resize=decoder saves of a clip, from file to tensor
    python benchmarks/loading.py memory    resident megabytes of 2 workers and their decoding helpers over 2,000 clips

Files are 340x256 and made here. Bare readers are what one writes with PyAV or decord and nothing else, each once from the
start and once by seeking; those that return other frames than a plain decode are named and left out. All take turns on one
core, so that a busy machine slows all alike. Ratios are by processor time, of all threads and of this project's helper
process together; tables show the clock beside it. mp4 compares this project with its helper process, avi without, as bare
readers decode. One run is the median over its rounds; the spread is that of the runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from harness import CPU, arguments_of, finish, goal, print_times
from numpy.typing import NDArray

from revit.common.system.command_line import parse, tool
from revit.common.timing.clock import Times, time_rounds
from revit.video.data.clips import build_train_loader, load_views
from revit.video.data.decode import libraries
from revit.video.data.decode.reader import FrameReader
from revit.video.data.decoders import ONE_VIEW
from revit.video.data.options import ClipOptions

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
from made_videos import packed, packets_of, remux

INDICES = [0, 36, 72, 109, 145, 182, 218, 255]
"""Published 8x32 test view of a file of 300 frames at 30 per second."""
OURS, IN_PROCESS = "this project", "this project, without its helper"
Picture = NDArray[np.uint8]
Reader = Callable[[str], Picture]
Rows = list[dict[str, Any]]
AVI = {
    "MPEG-4, key frame every 250, 2 B-frames": ("mpeg4", {"g": "250", "bf": "2"}),
    "MPEG-4, key frame every 250, 2 B-frames, packed": ("mpeg4", {"g": "250", "bf": "2"}),
    "MPEG-4, key frame every 12": ("mpeg4", {"g": "12", "bf": "0"}),
    "MPEG-4, key frame every 12, 2 B-frames": ("mpeg4", {"g": "12", "bf": "2"}),
    "H.264, key frame every 250, B-frames": ("libx264", {"g": "250"}),
    "H.264, key frame every 12, B-frames": ("libx264", {"g": "12"}),
}


def make_clip(
    path: Path,
    seed: int,
    group: int,
    num_frames: int = 300,
    width: int = 340,
    height: int = 256,
    codec: str = "libx264",
    **options: str,
) -> str:
    """Write a window moving over a texture, with grain, at 30 frames a second and with a key frame every `group`."""
    random = np.random.default_rng(seed)
    colours = random.integers(0, 256, (height // 8 + 16, width // 8 + 16, 3), dtype=np.int16)
    texture = colours.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"g": str(group), **options}
        for number in range(num_frames):
            top, left = int(50 + 40 * np.sin(number / 20)), int(50 + 45 * np.cos(number / 17))
            grain = random.integers(-6, 7, (height, width, 1))
            picture = (texture[top : top + height, left : left + width] + grain).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def bare_pyav(path: str) -> Picture:
    """Decode from the start, keep the wanted frames."""
    wanted, frames = set(INDICES), []
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if number == INDICES[-1]:
                break
    return np.stack(frames)


def seeking_pyav(path: str) -> Picture:
    """Go to the key frame before each wanted time, and on from there."""
    frames = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number in INDICES:
            stamp = int(Fraction(number) / stream.average_rate / stream.time_base)
            container.seek(stamp, stream=stream)
            later = (one for one in container.decode(stream) if one.pts is None or one.pts >= stamp)
            if (frame := next(later, None)) is None:
                return np.empty(0, np.uint8)
            frames.append(frame.to_ndarray(format="rgb24"))
    return np.stack(frames)


def bare_decord(path: str) -> Picture:
    import decord  # not installed everywhere

    return decord.VideoReader(path, num_threads=1).get_batch(INDICES).asnumpy()


def decord_in_order(path: str) -> Picture:
    """Read one frame after the other, those between passed over."""
    import decord  # not installed everywhere

    reader, frames, at = decord.VideoReader(path, num_threads=1), [], 0
    for number in INDICES:
        if number > at:
            reader.skip_frames(number - at)
        frames.append(reader.next().asnumpy())
        at = number + 1
    return np.stack(frames)


def by_pytorchvideo(path: str) -> Picture:
    """Do as its data sets do: the clip over the span decoded whole, then frames chosen from the tensor."""
    from pytorchvideo.data.encoded_video import EncodedVideo  # not installed everywhere

    video = EncodedVideo.from_path(path, decode_audio=False, decoder="pyav")
    clip = video.get_clip(0, (INDICES[-1] + 1) / 30)["video"]
    frames: Picture = clip[:, INDICES].permute(1, 2, 3, 0).byte().numpy()
    video.close()
    return frames


BARE: dict[str, Reader] = {"bare PyAV": bare_pyav, "bare PyAV, seeking": seeking_pyav}
if libraries.installed("decord"):
    BARE |= {"bare decord": bare_decord, "bare decord, in order": decord_in_order}


def processor_seconds(reader: FrameReader) -> float:
    """Seconds that this process and the helper of `reader`, if it has one, have been on a processor, all threads."""
    seconds = time.process_time()
    for pid in reader.helper_pids():
        for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            seconds += int(file.read_text().split()[0]) / 1e9
    return seconds


def runs_of(
    readers: dict[str, Callable[[str], Any]], path: str, ours: FrameReader, values: argparse.Namespace
) -> dict[str, Times]:
    """Time all readers in `--runs` runs: one number for each, the median of its rounds."""
    calls = {name: partial(read, path) for name, read in readers.items()}
    times = {name: Times() for name in readers}
    for _ in range(values.runs):
        found = time_rounds(calls, CPU, values.rounds, processor=partial(processor_seconds, ours))
        for name, one in found.items():
            times[name].clock.append(one.median)
            times[name].processor.append(statistics.median(one.processor))
    return times


def compare(what: str, path: str, peers: dict[str, Reader], values: argparse.Namespace) -> dict[str, Times]:
    """Time and print this project's readers and those of `peers` that return the frames of a plain decode.

    RuntimeError if this project's do not.
    """
    expected = bare_pyav(path)
    right = {name: read for name, read in peers.items() if np.array_equal(read(path), expected)}
    helped, alone = FrameReader("auto", 30.0), FrameReader("auto", 0.0)
    own = {
        name: partial(reader.read, choose_indices=lambda _: INDICES)
        for name, reader in ((OURS, helped), (IN_PROCESS, alone))
    }
    for name, read in own.items():
        if not np.array_equal(read(path), expected):
            raise RuntimeError(f"{what}: {name} returned other frames than a plain decode")
    times = runs_of({**right, **own}, path, helped, values)
    helped.close()
    print_times(what, times)
    if wrong := [name for name in peers if name not in right]:
        print(f"other frames than a plain decode: {', '.join(wrong)}")
    return times


def times_as_fast(times: dict[str, Times], ours: str, peers: Sequence[str], kind: str = "processor") -> list[float]:
    """Return the time of the fastest of `peers` over that of `ours`, run by run, by the processor or by the clock."""
    own, *others = (getattr(times[name], kind) for name in (ours, *peers))
    return [min(each) / mine for mine, *each in zip(own, *others)]


def mp4(folder: Path, values: argparse.Namespace) -> Rows:
    rows: Rows = []
    bare = [name for name in ("bare PyAV", "bare decord") if name in BARE]
    for group in (250, 30):
        path = make_clip(folder / f"group{group}.mp4", 0, group)
        what = f"8 frames of a 10 s 340x256 H.264 file, key frame every {group}, one core"
        times = compare(what, path, {"pytorchvideo": by_pytorchvideo, **BARE}, values)
        for target, said, peers in (
            ("4 times", "pytorchvideo", ["pytorchvideo"]),
            ("1.2 times", f"the faster of {' and '.join(bare)}", bare),
        ):
            clock = statistics.median(times_as_fast(times, OURS, peers, "clock"))
            processor = times_as_fast(times, OURS, peers)
            rows.append(goal(f"{what}, against {said}", target, processor, unit=" times", clock=clock))
    return rows


def avi(folder: Path, values: argparse.Namespace) -> Rows:
    rows: Rows = []
    for number, (what, (codec, options)) in enumerate(AVI.items()):
        path, rate = folder / f"{number}.avi", {"b": "900k"} if codec == "mpeg4" else {}
        group = int(options["g"])
        make_clip(path, 0, group, codec=codec, **{**options, **rate})
        if "packed" in what:
            source, path = path, folder / f"{number}.packed.avi"
            remux(source, path, packed(packets_of(source)[0]))
        times = compare(f"AVI, {what}", str(path), BARE, values)
        right = [name for name in BARE if name in times]
        longer = [1 / one for one in times_as_fast(times, IN_PROCESS, right)]
        work = f"AVI, {what}: over the fastest bare reader of the right frames"
        wrong = [name for name in BARE if name not in right]
        rows.append(goal(work, "at most 1.1 times its time", longer, unit=" times", wrong=wrong))
    return rows


def resize(folder: Path, values: argparse.Namespace) -> Rows:
    rows: Rows = []
    reader = FrameReader("auto", 0.0)
    for width, height in ((1280, 720), (340, 256)):
        path = make_clip(folder / f"{width}.mp4", 0, 30, width=width, height=height)
        views = {}
        for who in ("transform", "decoder"):
            options = ClipOptions.model_validate({"pixels": {"resize": who}})
            views[who] = partial(load_views, options=options, views=ONE_VIEW, reader=reader)
        times = runs_of(views, path, reader, values)
        saved = [100 * (1 - 1 / ratio) for ratio in times_as_fast(times, "decoder", ["transform"])]
        work = f"{width}x{height}: saved of a clip by resizing in the decoder"
        rows.append(goal(work, None, saved, "{:.1f}", " %"))
    return rows


def memory(folder: Path, values: argparse.Namespace) -> Rows:
    """Print the resident memory of workers and helpers while clips are loaded; a page shared by two counts twice."""
    files = [make_clip(folder / f"{seed}.mp4", seed, 12 + 48 * seed, 150) for seed in range(6)]
    listing = folder / "list.csv"
    listing.write_text("".join(f"{files[number % len(files)]} 0\n" for number in range(values.clips)))
    options = ClipOptions.model_validate({"source": {"train": str(listing)}, "loading": {"num_workers": 2}})
    loader = build_train_loader(options, batch_size=8, seed=0)
    begin, every, found = time.perf_counter(), max(len(loader) // 10, 1), []
    for number, batch in enumerate(loader, start=1):
        if number % every == 0:
            found.append(sum(_resident_below(os.getpid())))
            rate = number * len(batch) / (time.perf_counter() - begin)
            print(f"{number * len(batch):6} clips {found[-1]:8.0f} MB {rate:8.1f} clips/s")
    work = f"resident memory of 2 workers and their helpers, {values.clips} clips"
    return [goal(work, None, found, "{:.0f}", " MB")]


def _resident_below(pid: int) -> Iterator[float]:
    """Megabytes of every process below this one."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for child in children.read_text().split() if children.exists() else ():
        pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
        yield pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        yield from _resident_below(int(child))


ONE_CORE = {"mp4": mp4, "avi": avi, "resize": resize}
PARTS = {**ONE_CORE, "memory": memory}


@tool
def main(argv: Sequence[str] | None = None) -> int:
    example = "python benchmarks/loading.py mp4 avi --json loading.json"
    arguments = arguments_of(__doc__, example, runs=5, rounds=9, clips=2000)
    arguments.add_argument("parts", nargs="+", choices=PARTS)
    values = parse(arguments, argv)
    if min(values.runs, values.rounds, values.clips) < 1:
        arguments.error("--runs, --rounds and --clips: at least 1 of each")
    warnings.filterwarnings("ignore", module="pytorchvideo|torchvision")
    cores, num_threads, rows = os.sched_getaffinity(0), torch.get_num_threads(), []
    for part in values.parts:
        with tempfile.TemporaryDirectory() as folder:
            # Two threads on one core wait for each other: pytorchvideo took eight times as long.
            os.sched_setaffinity(0, {max(cores)} if part in ONE_CORE else cores)
            torch.set_num_threads(1 if part in ONE_CORE else num_threads)
            try:
                rows += PARTS[part](Path(folder), values)
            finally:
                os.sched_setaffinity(0, cores)
                torch.set_num_threads(num_threads)
    return finish(__file__, argv, values, rows)


if __name__ == "__main__":
    sys.exit(main())
