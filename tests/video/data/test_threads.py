"""Reading from threads that come and go, as servers do: no wrong answer, none lost, and no process left over."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from made_videos import NUM_FRAMES, Structure, number_of, write_video

from revit.common.system.processes import in_lasting_thread, killed_from_outside
from revit.video.data.decode.opening import DecodeError
from revit.video.data.decode.reader import FrameReader

pytestmark = pytest.mark.filterwarnings("ignore")  # the encoders' chatter

NUM_READS = 5000


@pytest.fixture
def clips(tmp_path: Path) -> list[str]:
    """Some of each kind of route: by stamps, by counting, and packets not to be begun with."""
    made = []
    for structure, container in (
        (Structure("h264", 2), "mp4"),
        (Structure("mpeg4", 2), "avi"),
        (Structure("mjpeg"), "avi"),
        (Structure("h264", 1, is_open=True), "mkv"),
    ):
        path = tmp_path / f"{structure}.{container}"
        assert write_video(path, structure, container)
        made.append(str(path))
    return made


def in_threads(count: int, work: Callable[[int], object]) -> list[Any]:
    """Run `work(0)`, ..., each in a thread of its own that ends with it; what they return, or the first that they raise."""
    with ThreadPoolExecutor(count) as threads:
        return [one.result() for one in [threads.submit(work, number) for number in range(count)]]


def test_a_soak_of_threads_that_come_and_go(clips):
    """1 to 64 threads at once, each ending after a few reads; now and then a helper is killed from outside."""
    reader = FrameReader(num_helpers=2)
    busy: list[int] = []

    def work(number: int, seed: int, reads: int) -> list[str]:
        wrong = []
        random = np.random.default_rng((seed, number))
        for _ in range(reads):
            path, numbers = clips[random.integers(len(clips))], random.integers(0, NUM_FRAMES, 2).tolist()
            try:
                got = [number_of(frame) for frame in reader.read(path, lambda _, n=numbers: n)]
            except DecodeError as error:
                got = [str(error)]
            if got != numbers:
                wrong.append(f"{path} {numbers}: {got}")
        return wrong

    def kill_one() -> None:
        """At work or not: whichever process of this reader the system lists first."""
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if any("decode.worker" in word for word in child.cmdline()):
                    busy.append(child.pid)
                    child.kill()
                    return

    wrong, done = [], 0
    for wave in range(-(-NUM_READS // 256)):
        num_threads = 2 ** (wave % 7)
        killer = threading.Timer(0.1, kill_one)
        if wave % 3 == 0:
            killer.start()
        for found in in_threads(num_threads, lambda number, wave=wave, num=num_threads: work(number, wave, 256 // num)):
            wrong += found
            done += 256 // num_threads
        killer.cancel()
        assert len(reader.helper_pids()) <= 2
    left = reader.helper_pids()
    reader.close()
    assert wrong == []
    assert done >= NUM_READS
    assert busy
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)


def test_the_helper_of_a_thread_that_has_ended_goes_on(clips):
    reader = FrameReader()
    in_threads(1, lambda _: reader.read(clips[0], lambda _: [1]))
    (pid,) = reader.helper_pids()
    in_threads(1, lambda _: reader.read(clips[0], lambda _: [2]))
    assert number_of(reader.read(clips[1], lambda _: [7])[0]) == 7
    assert reader.helper_pids() == [pid]
    reader.close()


KILLED = """
import os, signal, sys
from revit.video.data.decode import worker
true_read = worker.READ
def read(path, choose_indices, backend, **options):
    marks, signal_number, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if len(os.listdir(marks)) < times:
        open(os.path.join(marks, str(os.getpid())), "w").close()
        os.kill(os.getpid(), signal_number)
    return true_read(path, choose_indices, backend, **options)
worker.READ = read
worker.main()
"""


@pytest.mark.parametrize(
    ("number", "times", "reason"),
    [
        (signal.SIGKILL, 1, None),
        (signal.SIGKILL, 2, "killed twice .SIGKILL"),
        (signal.SIGSEGV, 1, "crashed the decoder"),
    ],
)
def test_a_helper_killed_from_outside_is_started_again_once(number, times, reason, clips, tmp_path):
    """A crash of its own is the file's fault at once."""
    marks = tmp_path / "marks"
    marks.mkdir()
    reader = FrameReader(command=(sys.executable, "-c", KILLED, str(marks), str(int(number)), str(times)))
    if reason is None:
        assert number_of(reader.read(clips[0], lambda _: [9])[0]) == 9
    else:
        with pytest.raises(DecodeError, match=reason):
            reader.read(clips[0], lambda _: [9])
    assert len(list(marks.iterdir())) == times
    assert number_of(reader.read(clips[0], lambda _: [11])[0]) == 11
    reader.close()


def test_a_reader_closed_while_others_read_leaves_nothing(clips):
    """They end with the file at hand, and their answers are right."""
    reader = FrameReader(num_helpers=4)
    reading, closed = threading.Barrier(5), threading.Event()

    def work(number: int) -> int:
        def choose(_: object) -> list[int]:
            reading.wait(30)
            assert closed.wait(30)
            return [number]

        return number_of(reader.read(clips[0], choose)[0])

    def close(_: int) -> int:
        reading.wait(30)
        reader.close()
        closed.set()
        return 4

    assert in_threads(5, lambda number: close(4) if number == 4 else work(number)) == list(range(5))
    assert reader.helper_pids() == []
    assert number_of(reader.read(clips[0], lambda _: [3])[0]) == 3
    reader.close()


def test_a_helper_that_cannot_start_leaves_nothing_open(clips):
    reader = FrameReader(command=("/no/such/program",))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            reader.read(clips[0], lambda _: [1])
    assert len(os.listdir("/proc/self/fd")) == before


def test_any_time_can_be_allowed(clips):
    for seconds in (1e7, float("inf")):
        reader = FrameReader(timeout_seconds=seconds)
        assert number_of(reader.read(clips[0], lambda _: [1])[0]) == 1
        reader.close()


def test_the_lasting_thread_returns_and_raises():
    assert in_lasting_thread(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        in_lasting_thread(lambda: 1 // 0)
    names = {in_lasting_thread(lambda: threading.current_thread().ident) for _ in range(3)}
    assert len(names) == 1
    assert threading.current_thread().ident not in names


def test_what_ends_a_process_is_told_from_what_ends_it_from_outside():
    assert killed_from_outside(-signal.SIGKILL) == "SIGKILL"
    assert killed_from_outside(-signal.SIGTERM) == "SIGTERM"
    assert [killed_from_outside(code) for code in (None, 0, 1, -signal.SIGSEGV, -signal.SIGABRT)] == [None] * 5
