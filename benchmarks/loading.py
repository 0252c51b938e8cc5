"""How fast and how steadily clips are read, against bare decord and bare PyAV.

    python benchmarks/loading.py                      about two minutes
    python benchmarks/loading.py --clips 0            the speed alone

Speed: 8 spread frames of a 10-second 340x256 H.264 file that this script makes, all readers taking turns in one run, so
that a busy machine slows all alike. The ratio that counts is the one to the faster of the two bare libraries; the target
is 1.10. Memory: a training loader with 2 workers over 2,000 clips; resident megabytes of workers and decoding helpers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from revit.video.data.clips import build_train_loader
from revit.video.data.decode_decord import installed as decord_installed
from revit.video.data.frame_reader import FrameReader
from revit.video.data.options import ClipOptions

INDICES = [0, 36, 72, 109, 145, 182, 218, 255]
"""Published 8x32 test view of a file of 300 frames at 30 per second."""


def make_clip(
    path: Path, seed: int, group: int, num_frames: int = 300, width: int = 340, height: int = 256
) -> str:
    """A textured picture under a moving window with grain, H.264 with B-frames and a key frame every `group`."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (height // 8 + 16, width // 8 + 16, 3), dtype=np.int16)
    texture = blocks.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"g": str(group)}
        for number in range(num_frames):
            top, left = int(50 + 40 * np.sin(number / 20)), int(50 + 45 * np.cos(number / 17))
            picture = texture[top : top + height, left : left + width]
            picture = picture + random.integers(-6, 7, (height, width, 1))
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def bare_pyav(path: str) -> np.ndarray:
    """What one writes with PyAV and nothing else: decode from the start, keep the wanted frames."""
    wanted, frames = set(INDICES), []
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if number == INDICES[-1]:
                return np.stack(frames)
    raise RuntimeError(f"{path} is too short")


def bare_decord(path: str) -> np.ndarray:
    """What one writes with decord and nothing else."""
    import decord

    return decord.VideoReader(path, num_threads=1).get_batch(INDICES).asnumpy()


def compare_speed(path: str, rounds: int) -> None:
    """Print milliseconds and ratios of all readers; stop if their frames differ."""
    readers: dict[str, Callable[[str], np.ndarray]] = {"bare PyAV": bare_pyav}
    if decord_installed():
        readers["bare decord"] = bare_decord
    bare = list(readers)
    for backend in ("pyav", "decord") if decord_installed() else ("pyav",):
        for name, timeout in (("helper process", 30.0), ("same process", 0.0)):
            reader = FrameReader(backend, timeout)  # type: ignore[arg-type]
            readers[f"this project, {backend}, {name}"] = lambda path, r=reader: r.read(
                path, lambda _: INDICES
            )
    expected = bare_pyav(path)
    for name, read in readers.items():
        if not np.array_equal(read(path), expected):
            raise RuntimeError(f"{name} returned other frames than bare PyAV")
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, read in readers.items():
            begin = time.perf_counter()
            read(path)
            times[name].append(1e3 * (time.perf_counter() - begin))
    faster = min(statistics.median(times[name]) for name in bare)
    print(f"{'':42}{'ms (median)':>12}{'ms (best)':>12}{'ratio to the faster bare one':>31}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:42}{median:12.1f}{min(values):12.1f}{median / faster:31.2f}")


def family_megabytes() -> float:
    """Resident megabytes of all processes below this one."""
    total, todo = 0, [os.getpid()]
    while todo:
        children = Path(f"/proc/{todo[0]}/task/{todo.pop(0)}/children")
        for child in children.read_text().split() if children.exists() else ():
            todo.append(int(child))
            total += int(Path(f"/proc/{child}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total / 2**20


def watch_memory(folder: Path, num_clips: int) -> None:
    """Print the resident memory of workers and helpers while `num_clips` clips are loaded."""
    files = [
        make_clip(folder / f"{seed}.mp4", seed, group=12 + 48 * seed, num_frames=150) for seed in range(6)
    ]
    listing = folder / "list.csv"
    listing.write_text("".join(f"{files[number % len(files)]} 0\n" for number in range(num_clips)))
    options = ClipOptions.model_validate({"source": {"train": str(listing)}, "loading": {"num_workers": 2}})
    loader = build_train_loader(options, batch_size=8, seed=0)
    begin, step = time.perf_counter(), max(len(loader) // 10, 1)
    for number, batch in enumerate(loader, start=1):
        if number % step == 0:
            rate = number * len(batch) / (time.perf_counter() - begin)
            print(f"{number * len(batch):6} clips {family_megabytes():8.0f} MB {rate:8.1f} clips/s")


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30, help="turns of every reader (default 30)")
    parser.add_argument(
        "--clips", type=int, default=2000, help="clips of the memory part (default 2000, 0 skips it)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for group in (250, 30):
            print(f"8 frames of a 10-second 340x256 H.264 file, a key frame every {group} frames")
            compare_speed(make_clip(Path(folder) / f"group{group}.mp4", 0, group), arguments.rounds)
        if arguments.clips:
            print(
                "resident memory of 2 workers and their decoding helpers (a page shared by two counts twice)"
            )
            watch_memory(Path(folder), arguments.clips)


if __name__ == "__main__":
    main()
