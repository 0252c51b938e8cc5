"""Reading from threads that come and go, as servers do: no wrong answer, none lost, and no process left over."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_videos import NUM_FRAMES, Structure, number_of, write_video

from revit.common.processes import in_lasting_thread, killed_from_outside
from revit.video.data.decode import DecodeError
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


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run `work(0)`, ..., each in a thread of its own that ends with it."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_soak_of_threads_that_come_and_go(clips):
    """1 to 64 threads at once, each ending after a few reads; now and then a helper is killed from outside."""
    reader = FrameReader(num_helpers=2)
    wrong: list[str] = []
    done = 0
    counting = threading.Lock()

    def work(number: int, seed: int, reads: int) -> None:
        nonlocal done
        random = np.random.default_rng((seed, number))
        for _ in range(reads):
            path, numbers = clips[random.integers(len(clips))], random.integers(0, NUM_FRAMES, 2).tolist()
            try:
                got = [number_of(frame) for frame in reader.read(path, lambda _, n=numbers: n)]
            except DecodeError as error:
                got = [str(error)]
            with counting:
                done += 1
                if got != numbers:
                    wrong.append(f"{path} {numbers}: {got}")

    wave = 0
    while done < NUM_READS:
        threads = 2 ** (wave % 7)
        in_threads(threads, lambda number, wave=wave, threads=threads: work(number, wave, 256 // threads))
        if wave % 3 == 0:
            for pid in reader.helper_pids()[:1]:
                os.kill(pid, signal.SIGKILL)
        assert len(reader.helper_pids()) <= 2
        wave += 1
    left = reader.helper_pids()
    reader.close()
    assert wrong == []
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
    reader = FrameReader(num_helpers=4)
    in_threads(8, lambda number: reader.close() if number == 4 else reader.read(clips[0], lambda _: [number]))
    left = reader.helper_pids()
    reader.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
    assert number_of(reader.read(clips[0], lambda _: [3])[0]) == 3
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
    assert [killed_from_outside(code) for code in (None, 0, 1, -signal.SIGSEGV, -signal.SIGABRT)] == [
        None
    ] * 5
