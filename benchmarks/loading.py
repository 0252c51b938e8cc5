"""How fast and how steadily clips are read, against bare decord, bare PyAV and pytorchvideo.

    python benchmarks/loading.py                      about three minutes
    python benchmarks/loading.py --clips 0            the speed alone
    python benchmarks/loading.py --json OUT           the speed, also as rows of README's table of targets
    python benchmarks/loading.py --resize             only what data.pixels.resize=decoder saves

Speed: 8 spread frames of a 10-second 340x256 H.264 file that this script makes, with two distances of key frames; all
readers return the same frames, or it stops. They take turns on one core, so that a busy machine slows all alike. Ratios
are by processor time, of all threads and of this project's helper process together, and beside it by the clock; the two
say the same on a machine that does nothing else, and rows say which is which (the first is "measured", and `clock` the
other). One run is the median over its rounds; the spread is that of the runs. Memory: a training loader with 2 workers over 2,000 clips; resident megabytes of workers and decoding helpers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from revit.common.system.files import write_json
from revit.common.system.machine import machine_name
from revit.video.data.clips import build_train_loader, load_views
from revit.video.data.decode.decord import installed as decord_installed
from revit.video.data.decode.reader import FrameReader
from revit.video.data.decoders import ONE_VIEW
from revit.video.data.options import ClipOptions

INDICES = [0, 36, 72, 109, 145, 182, 218, 255]
"""Published 8x32 test view of a file of 300 frames at 30 per second."""

TARGETS = {"pytorchvideo": 4.0, "bare": 1.2}
"""How many times as fast this project should be as pytorchvideo, and as the faster of the bare libraries."""

OURS = "this project"
PROCESSOR, CLOCK = 0, 1
"""Columns of times."""
Reader = Callable[[str], np.ndarray]
Spread = tuple[float, float, float]
"""Smallest, median, largest."""


def textured(seed: int, num_frames: int, width: int, height: int) -> Iterator[np.ndarray]:
    """A texture under a moving window, with grain: RGB pictures (height, width, 3)."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (height // 8 + 16, width // 8 + 16, 3), dtype=np.int16)
    texture = blocks.repeat(8, 0).repeat(8, 1)
    for number in range(num_frames):
        top, left = int(50 + 40 * np.sin(number / 20)), int(50 + 45 * np.cos(number / 17))
        picture = texture[top : top + height, left : left + width] + random.integers(
            -6, 7, (height, width, 1)
        )
        yield picture.clip(0, 255).astype(np.uint8)


def make_clip(
    path: Path, seed: int, group: int, num_frames: int = 300, width: int = 340, height: int = 256
) -> str:
    """`textured` as H.264 with B-frames and a key frame every `group`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"g": str(group)}
        for picture in textured(seed, num_frames, width, height):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
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


def by_pytorchvideo(path: str) -> np.ndarray:
    """What its data sets do: the clip over the span decoded whole, then frames chosen from the tensor."""
    from pytorchvideo.data.encoded_video import EncodedVideo

    video = EncodedVideo.from_path(path, decode_audio=False, decoder="pyav")
    clip = video.get_clip(0, (INDICES[-1] + 1) / 30)["video"]
    frames: np.ndarray = clip[:, INDICES].permute(1, 2, 3, 0).byte().numpy()
    video.close()
    return frames


def processor_seconds(reader: FrameReader) -> float:
    """Seconds that this process and the helper of `reader`, if it has one, have been on a processor, all threads."""
    seconds = time.process_time()
    for pid in reader.helper_pids():
        for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            seconds += int(file.read_text().split()[0]) / 1e9
    return seconds


def one_run(path: str, readers: dict[str, Reader], ours: FrameReader, rounds: int) -> dict[str, list[float]]:
    """Reader -> median milliseconds of processor time and of the clock."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, read in readers.items():
            begin = processor_seconds(ours), time.perf_counter()
            read(path)
            end = processor_seconds(ours), time.perf_counter()
            times[name].append((end[0] - begin[0], end[1] - begin[1]))
    return {name: [1e3 * statistics.median(column) for column in zip(*times[name])] for name in readers}


def compare_speed(path: str, group: int, num_runs: int, rounds: int, machine: str) -> list[dict[str, Any]]:
    """Print milliseconds and ratios of all readers, and return the rows for the table of targets.

    RuntimeError if their frames differ.
    """
    ours, same = FrameReader("auto", 30.0), FrameReader("auto", 0.0)
    bare: dict[str, Reader] = {"bare PyAV": bare_pyav}
    if decord_installed():
        bare["bare decord"] = bare_decord
    readers: dict[str, Reader] = {
        "pytorchvideo": by_pytorchvideo,
        **bare,
        OURS: lambda path: ours.read(path, lambda _: INDICES),
        f"{OURS}, without its helper": lambda path: same.read(path, lambda _: INDICES),
    }
    expected = bare_pyav(path)
    for name, read in readers.items():
        if not np.array_equal(read(path), expected):
            raise RuntimeError(f"{name} returned other frames than bare PyAV")
    runs = [one_run(path, readers, ours, rounds) for _ in range(num_runs)]
    ours.close()
    print(
        f"8 frames of a 10-second 340x256 H.264 file, a key frame every {group} frames; milliseconds, "
        f"{num_runs} runs of {rounds} rounds"
    )
    print(f"{'':30}{'processor: min, median, max':>34}{'clock: min, median, max':>34}")
    for name in readers:
        columns = [spread_of([run[name][column] for run in runs]) for column in (PROCESSOR, CLOCK)]
        print(
            f"{name:30}" + "".join(f"{low:14.1f}{middle:10.1f}{high:10.1f}" for low, middle, high in columns)
        )
    command = f"python benchmarks/loading.py --clips 0 --runs {num_runs} --rounds {rounds}"
    rows = []
    for peer, against in (
        ("pytorchvideo", "pytorchvideo"),
        ("bare", f"the faster of {' and '.join(bare)}"),
    ):
        names = list(bare) if peer == "bare" else [peer]
        processor, clock = (
            spread_of([min(run[name][column] for name in names) / run[OURS][column] for run in runs])
            for column in (PROCESSOR, CLOCK)
        )
        row = target_row(peer, processor, clock)
        print(f"as fast as {against}: {row['measured']} ({row['spread']}); target {row['target']}")
        work = f"8 frames of a 10 s 340x256 H.264 file, key frame every {group}, one core, against {against}"
        rows.append({"work": work, **row, "runs": num_runs, "command": command, "machine": machine})
    return rows


def target_row(peer: str, processor: Spread, clock: Spread) -> dict[str, Any]:
    """What of a row of the table of targets follows from the two spreads (smallest, median, largest): both by name, and the
    one by processor time first, which is what the target is compared with."""
    return {
        "target": f"{TARGETS[peer]:g} times",
        "measured": f"{processor[1]:.2f} times by processor time, {clock[1]:.2f} by the clock",
        "spread": f"{processor[0]:.2f} to {processor[2]:.2f}, by the clock {clock[0]:.2f} to {clock[2]:.2f}",
        "measured_by": "processor time",
        "clock": {"measured": clock[1], "spread": [clock[0], clock[2]]},
    }


def compare_resizing(folder: Path, num_runs: int, rounds: int) -> None:
    """Print what `data.pixels.resize=decoder` saves of the processor time of a clip, from file to tensor."""
    for width, height in ((1280, 720), (340, 256)):
        path = make_clip(folder / f"{width}.mp4", 0, 30, width=width, height=height)
        reader = FrameReader("auto", 0.0)
        views = {
            who: partial(load_views, options=_resized_by(who), views=ONE_VIEW, reader=reader)
            for who in ("transform", "decoder")
        }
        runs = [one_run(path, views, reader, rounds) for _ in range(num_runs)]
        saved = [100 * (1 - run["decoder"][PROCESSOR] / run["transform"][PROCESSOR]) for run in runs]
        low, middle, high = spread_of(saved)
        print(
            f"{width}x{height}: the decoder's resizing saves {middle:.1f} % ({low:.1f} to {high:.1f}) of a clip"
        )


def _resized_by(who: str) -> ClipOptions:
    return ClipOptions.model_validate({"pixels": {"resize": who}})


def spread_of(values: list[float]) -> Spread:
    """Smallest, median, largest."""
    return min(values), statistics.median(values), max(values)


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
    parser.add_argument("--runs", type=int, default=5, help="measurements, each of all readers (default 5)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every reader in a run (default 9)")
    parser.add_argument(
        "--clips", type=int, default=2000, help="clips of the memory part (default 2000, 0 skips it)"
    )
    parser.add_argument("--json", type=Path, help="write the rows for README's table of targets there")
    parser.add_argument(
        "--resize", action="store_true", help="only who resizes: the transform or the decoder"
    )
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="pytorchvideo|torchvision")
    with tempfile.TemporaryDirectory() as folder:
        rows, machine = [], machine_name()
        cores, num_threads = os.sched_getaffinity(0), torch.get_num_threads()
        os.sched_setaffinity(0, {max(cores)})
        # Two threads on one core wait for each other: pytorchvideo took eight times as long.
        torch.set_num_threads(1)
        if arguments.resize:
            compare_resizing(Path(folder), arguments.runs, arguments.rounds)
            return
        for group in (250, 30):
            path = make_clip(Path(folder) / f"group{group}.mp4", 0, group)
            rows += compare_speed(path, group, arguments.runs, arguments.rounds, machine)
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(num_threads)
        if arguments.json:
            write_json(arguments.json, rows)
        if arguments.clips:
            print(
                "resident memory of 2 workers and their decoding helpers (a page shared by two counts twice)"
            )
            watch_memory(Path(folder), arguments.clips)


if __name__ == "__main__":
    main()
