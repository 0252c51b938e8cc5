"""Frames through shared memory: the same, given back, without a name, and no room is said."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from revit.video.data.decode import worker
from revit.video.data.decode.read import DecodeError, read_frames
from revit.video.data.decode.reader import FrameReader
from revit.video.data.decode.worker import KEPT_BYTES, NoRoom, SharedFrames, shared_file


@pytest.fixture(params=["memory", "refused", "absent"])
def file(request, monkeypatch):
    """An open shared file: in memory, or where that is not allowed or not known."""
    if request.param == "refused":

        def refuse(name: str) -> int:
            raise OSError(name)

        monkeypatch.setattr(os, "memfd_create", refuse)
    elif request.param == "absent":
        monkeypatch.delattr(os, "memfd_create")
    number = shared_file()
    yield number
    os.close(number)


def memory_of(pid: int | str = "self") -> int:
    """Shared memories of this kind that a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:frames")


def pictures(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def ones(num: int) -> np.ndarray:
    return np.ones((1, num, 1, 1), np.uint8)


def test_what_one_fills_the_other_sees(file):
    filler, owner = SharedFrames(file), SharedFrames(file)
    shapes = [(2, 30, 40, 3), (5, 30, 40, 3), (1, 3, 4, 3), (9, 64, 48, 3)]
    for seed, shape in enumerate(shapes):
        frames = pictures(seed, *shape)
        filler.put(frames)
        assert np.array_equal(owner.view(shape), frames)


def test_it_has_no_name_and_a_large_one_is_given_back(file):
    assert os.fstat(file).st_nlink == 0
    frames = SharedFrames(file)
    frames.put(ones(KEPT_BYTES + 4096))
    assert os.fstat(file).st_blocks * 512 > KEPT_BYTES
    frames.put(ones(100))
    assert os.fstat(file).st_size == 100
    assert os.fstat(file).st_blocks * 512 <= 8192
    frames.put(ones(5000))
    frames.put(ones(100))
    assert os.fstat(file).st_size == 5000  # a small one is kept


def test_readers_give_their_memory_back_however_the_helper_ends(make_video):
    path = make_video(num_frames=12)
    expected = read_frames(path, lambda _: [3, 11])
    names, open_files, mapped = (set(os.listdir("/dev/shm")), len(os.listdir("/proc/self/fd")), memory_of())
    reader = FrameReader()
    for end in ("kill", "kill", "close"):
        assert np.array_equal(reader.read(path, lambda _: [3, 11]), expected)
        assert memory_of() == mapped + 1
        (pid,) = reader.helper_pids()
        assert memory_of(pid) == 1
        if end == "kill":
            os.kill(pid, signal.SIGKILL)
        else:
            reader.close()
    assert (memory_of(), len(os.listdir("/proc/self/fd"))) == (mapped, open_files)
    assert not [name for name in set(os.listdir("/dev/shm")) - names if "frames" in name]


SMALL_FILES = """
import resource
from revit.video.data.decode import worker
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
worker.main()
"""


def test_without_room_it_is_said_and_smaller_clips_are_read(make_video, numbers_of):
    path = make_video(num_frames=12)
    reader = FrameReader(command=(sys.executable, "-c", SMALL_FILES))
    for _ in range(2):
        assert numbers_of(reader.read(path, lambda _: [1, 5])) == [1, 5]
        pids = reader.helper_pids()
        with pytest.raises(DecodeError, match=r"no room for its frames, 1 MB \(file too large\)"):
            reader.read(path, lambda _: range(12))
        assert reader.helper_pids() == pids
    reader.close()


def test_a_system_that_has_no_page_left_says_so(file, monkeypatch):
    def refuse(number: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    frames = SharedFrames(file)
    frames.put(ones(10))
    monkeypatch.setattr(worker.os, "posix_fallocate", refuse)
    with pytest.raises(NoRoom, match=r"2 MB \(no space left on device\)"):
        frames.put(ones(2_000_000))
    assert os.fstat(file).st_size == 0
    monkeypatch.undo()
    frames.put(ones(10))
    assert (SharedFrames(file).view((1, 10, 1, 1)) == 1).all()
