"""Plant faults in a folder of clips, look whether the data doctor finds each of them and none that is not there, and time it.

    python benchmarks/doctor.py                  300 clips in class folders and 60 of a test: two minutes, most of them to write
    python benchmarks/doctor.py --files 60 --json OUT

Healthy clips are of eight kinds of file, some of one place seen twice, and some still. The time is set against bare decoding: as
many processes that open each file with PyAV, one thread each, and decode every frame, over the same healthy files in turns. To
reach: all faults and no other, and as many clips a second as bare decoding.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from harness import arguments_of, finish, goal  # isort: skip (it finds the tools)
import check_data
import modalities  # noqa: F401 (here, and not while the doctor is timed)
from numpy.typing import NDArray

from revit.common.system.command_line import parse, tool
from revit.common.system.errors import UserError

KINDS = (
    ("mp4", "libx264", {}),
    ("mp4", "libx264", {"bf": "0", "g": "12"}),
    ("mkv", "libx264", {}),
    ("avi", "mpeg4", {"bf": "2"}),
    ("mov", "libx264", {}),
    ("avi", "mpeg4", {}),
    ("ts", "libx264", {}),
    ("webm", "libvpx", {"deadline": "realtime", "cpu-used": "8"}),
)
"""End, encoder and its options of the healthy files, in turns."""
CLASSES = ("climb", "jump", "run", "sit", "stand", "walk")
WIDTH, HEIGHT, NUM_FRAMES, RATE = 320, 240, 60, 30
LIMIT = 2.0
"""Seconds for a file, a hundred times what a healthy one takes."""
Planted = dict[str, str]
"""Path -> kind."""


def film(
    seed: int, num_frames: int, place: int | None = None, width: int = WIDTH, height: int = HEIGHT
) -> NDArray[np.uint8]:
    """Return RGB (num_frames, height, width, 3): a few patches moving over a still background, which is that of `place`."""
    generator, scene = np.random.default_rng([1, seed]), np.random.default_rng([2, seed if place is None else place])
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    frames[:] = scene.integers(30, 220, (6, 8, 3)).repeat(height // 6, 0).repeat(width // 8, 1)
    frames += scene.integers(0, 8, (height, width, 1), np.uint8)
    for _ in range(3):
        side, colour = generator.integers(height // 8, height // 4), generator.integers(0, 256, 3)
        begin, end = generator.random((2, 2)) * (height - side, width - side)
        for number in range(num_frames):
            top, left = (begin + (end - begin) * number / num_frames).astype(int)
            frames[number, top : top + side, left : left + side] = colour
    return frames


def write(
    path: Path, frames: NDArray[np.uint8], codec: str, options: dict[str, str], times: Sequence[int] | None = None
) -> Path:
    """Encode frames; times: when each is shown, in frames; None: one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"  # type: ignore[attr-defined]
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number if times is None else times[number]
            container.mux(stream.encode(frame))  # type: ignore[attr-defined]
        container.mux(stream.encode(None))  # type: ignore[attr-defined]
    return path


def write_slow(path: Path, num_frames: int = 1200) -> Path:
    """Write a file that takes seconds to decode: a large picture that is stored anew for every frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "qp": "30"})
        stream.height, stream.width, stream.pix_fmt = 2160, 3840, "yuv420p"  # type: ignore[attr-defined]
        picture = film(0, 1, None, 3840, 2160)[0]
        packets = stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))  # type: ignore[attr-defined]
        packets += stream.encode(None)  # type: ignore[attr-defined]
        content, unit = bytes(packets[0]), packets[0].time_base
        for number in range(num_frames):
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.is_keyframe = stream, unit, True
            packet.pts = packet.dts = number
            container.mux(packet)
    return path


def make_healthy(
    folder: Path, number: int, num_frames: int = NUM_FRAMES, width: int = WIDTH, height: int = HEIGHT
) -> Path:
    """Write one of the healthy clips: every tenth shares its place with the one before, so that it is nearly a copy."""
    end, codec, options = KINDS[number % len(KINDS)]
    place = number - 1 if number % 10 == 1 else None
    path = folder / CLASSES[number % len(CLASSES)] / f"clip{number:04d}.{end}"
    return write(path, film(number, num_frames, place, width, height), codec, options)


def plant(folder: Path, test: Path, seed: int = 0) -> Planted:
    """Write one file of each fault, in class folders, and copies in the folder `test`; return what is to be found."""
    planted: Planted = {}

    def at(kind: str, name: str, where: Path = folder, group: str | None = None) -> Path:
        path = where / (group or CLASSES[len(planted) % len(CLASSES)]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        planted[str(path)] = kind
        return path

    def clip(name: str, kind: str, codec: str = "libx264", **options: str) -> Path:
        return write(at(kind, name), film(10_000 + seed + len(planted), NUM_FRAMES), codec, options)

    at("missing", "gone.mp4").symlink_to(folder / "nowhere.mp4")
    at("empty", "empty.mp4").touch()
    at("unreadable", "noise.mp4").write_bytes(np.random.default_rng(seed).bytes(20_000))
    at("unreadable", "text.avi").write_text("a list of what was to be downloaded\n" * 50)
    with av.open(str(at("no_video", "sound.mp4")), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        sound.sample_rate = 44100
        for one in (sound, None):
            container.mux(stream.encode(one))  # type: ignore[attr-defined]
    first = av.VideoFrame.from_ndarray(film(seed, 1)[0], format="rgb24").to_image()
    first.save(at("no_video", "picture.mp4"), "JPEG")
    for name, codec in (("cut.mp4", "libx264"), ("cut.avi", "mpeg4"), ("cut.mkv", "libx264"), ("cut.webm", "libvpx")):
        whole = clip(name, "truncated", codec)
        os.truncate(whole, whole.stat().st_size * 6 // 10)
    for name, codec in (("hole.mp4", "libx264"), ("hole.avi", "mpeg4"), ("hole.mkv", "libx264")):
        whole = clip(name, "damaged", codec, **({"b": "2000000"} if codec == "mpeg4" else {"crf": "12"}))
        content = bytearray(whole.read_bytes())
        middle = len(content) // 2
        content[middle : middle + len(content) // 20] = np.random.default_rng(seed).bytes(len(content) // 20)
        whole.write_bytes(content)
    write_slow(at("slow", "huge.avi"))
    write(at("odd", "uneven.mp4"), film(seed, 20), "libx264", {}, [number * number for number in range(20)])
    turned = clip("turned.mp4", "odd")
    content = bytearray(turned.read_bytes())
    struct.pack_into(">9i", content, content.rindex(b"tkhd") + 44, 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    turned.write_bytes(content)
    silent = clip("silent.mkv", "odd")
    content = bytearray(silent.read_bytes())
    struct.pack_into(">d", content, content.index(b"\x44\x89\x88") + 3, 9000.0)
    silent.write_bytes(content.replace(b"00:00:02", b"00:00:09"))
    _plant_copies(folder, test, at)
    only = write(folder / "fly" / "alone.mp4", film(20_000 + seed, NUM_FRAMES), "libx264", {})
    planted[f"{folder}: class 'fly' has one file, {only}"] = "label"
    planted[f"{test}: class 'fly' of {folder} has no file in {test}"] = "label"
    return planted


def _plant_copies(folder: Path, test: Path, at: Callable[..., Path]) -> None:
    """Copy clips of the folder, as they are and encoded anew: smaller, at other rates, in other containers."""
    pool = np.random.default_rng(3).permutation(sorted(folder.glob("*/clip*.*")))
    # Behind the first by name: of two files in one list the later one is the duplicate.
    shutil.copy(pool[0], at("duplicate", f"copy{pool[0].suffix}", group=pool[0].parent.name))
    anew(pool[1], at("duplicate", "later.avi", group=pool[1].parent.name), "mpeg4", {"b": "400000"})
    shutil.copy(pool[2], at("overlap", f"leaked{pool[2].suffix}", test))
    anew(pool[3], at("overlap", "small.mp4", test), "libx264", {"crf": "30"}, scale=0.5)
    anew(pool[4], at("overlap", "rate.mkv", test), "libx264", {"crf": "26"}, every=2)
    anew(pool[5], at("overlap", "vpx.webm", test), "libvpx", {"b": "300000", "deadline": "realtime"})


def anew(old: Path, new: Path, codec: str, options: dict[str, str], scale: float = 1.0, every: int = 1) -> None:
    """Encode a clip once more, at another size and of every so many frames."""
    with av.open(str(old)) as container:
        frames = list(container.decode(video=0))[::every]
        size = int(frames[0].width * scale), int(frames[0].height * scale)
        pictures = [frame.reformat(*size).to_ndarray(format="rgb24") for frame in frames]
    write(new, np.stack(pictures), codec, options, [number * every for number in range(len(pictures))])


def decode_barely(path: str) -> int:
    """Decode every frame of a file and do nothing with it."""
    with av.open(path) as container:
        container.streams.video[0].thread_count = 1  # type: ignore[attr-defined]
        return sum(1 for _ in container.decode(video=0))


def judge(planted: Planted, found: Sequence[dict[str, str]]) -> tuple[list[str], list[str]]:
    """Return what was planted and not found, and what was found and not planted, a line each."""
    said = {f"{one['path']}: {one['reason']}" if one["kind"] == "label" else one["path"]: one for one in found}
    missed = [f"{path}: {kind} not found" for path, kind in planted.items() if said.get(path, {}).get("kind") != kind]
    invented = [f"{one['path']}: {one['kind']}: {one['reason']}" for path, one in said.items() if path not in planted]
    return missed, invented


def run_check(*data: Path, out: Path, workers: int) -> dict[str, Any]:
    """Run the tool anew; return what it writes."""
    for one in data:
        shutil.rmtree(one.with_name(f".{one.name}.check"), ignore_errors=True)
    arguments = [*map(str, data), "--json", str(out), "--workers", str(workers), "--limit", str(LIMIT)]
    if check_data.main(arguments) != 0:
        raise UserError("the check failed")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def bare_rate(paths: Sequence[str], workers: int) -> float:
    """Return files a second of decoding alone, the start of the processes included, as it is in the doctor's."""
    begin = time.perf_counter()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        num_frames = sum(pool.map(decode_barely, paths))
    assert num_frames == NUM_FRAMES * len(paths)
    return len(paths) / (time.perf_counter() - begin)


def processor_seconds(begin: os.times_result, end: os.times_result) -> float:
    """Return the processor time between, of this process and of those that have ended."""
    return sum(after - before for after, before in zip(end[:4], begin[:4]))


@tool
def main(argv: Sequence[str] | None = None) -> int:
    example = "python benchmarks/doctor.py --files 60 --json doctor.json"
    arguments = arguments_of(__doc__, example, files=300, workers=2, runs=5)
    values = parse(arguments, argv)
    if min(values.files // 20, values.workers, values.runs) < 1:
        arguments.error("--files must be at least 20, --workers and --runs at least 1")
    with tempfile.TemporaryDirectory() as scratch:
        folder, test, out = (Path(scratch) / name for name in ("train", "test", "found.json"))
        with ProcessPoolExecutor(values.workers, multiprocessing.get_context("spawn")) as pool:
            paths = list(map(str, pool.map(partial(make_healthy, folder), range(values.files))))
            tested = range(values.files, values.files + max(12, values.files // 5))
            list(pool.map(partial(make_healthy, test), tested))
        ratios, processor = [], []
        for _ in range(values.runs):
            begin = os.times()
            bare = bare_rate(paths, values.workers)
            middle = os.times()
            ratios.append(len(paths) / run_check(folder, out=out, workers=values.workers)["seconds"] / bare)
            processor.append(processor_seconds(middle, os.times()) / processor_seconds(begin, middle))
        planted = plant(folder, test)
        found = run_check(folder, test, out=out, workers=values.workers)
    missed, invented = judge(planted, found["problems"])
    print("\n".join([*missed, *invented]), file=sys.stderr)
    rows = [
        goal(f"faults not found, of {len(planted)} in {found['files']} files", "0", [len(missed)], "{:.0f}"),
        goal("faults found that were not planted", "0", [len(invented)], "{:.0f}"),
        goal("clips a second, over bare decoding in as many processes", "at least 1", ratios, "{:.2f}"),
        goal("processor time, over that of bare decoding", None, processor, "{:.2f}"),
    ]
    return finish(__file__, argv, values, rows)


if __name__ == "__main__":
    sys.exit(main())
