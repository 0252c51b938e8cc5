"""The helper process: same frames, given up when it hangs or crashes, gone with its owner."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from revit.video.data.decode.read import DecodeError, read_frames
from revit.video.data.decode.reader import FrameReader

HELPER = """
import ctypes, os, sys
from revit.video.data.decode import worker
true_read = worker.READ
def read(path, choose_indices, backend, **options):
    if path.endswith("hang.mp4"):
        ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the interpreter lock, as decord does when it hangs
    if path.endswith("crash.mp4"):
        print("a last word", file=sys.stderr, flush=True)
        os.abort()
    return true_read(path, choose_indices, backend, **options)
worker.READ = read
worker.main()
"""


@pytest.fixture
def faulty_reader():
    """A reader whose decoder hangs on files called hang and crashes on files called crash."""
    reader = FrameReader(timeout_seconds=2.0, command=(sys.executable, "-c", HELPER))
    yield reader
    reader.close()


def pid_of(reader: FrameReader) -> int:
    (pid,) = reader.helper_pids()
    return pid


def test_frames_are_the_same_as_without_the_helper(make_video):
    path = make_video()
    reader = FrameReader()
    for numbers in ([3, 59, 3], list(range(60))):
        assert np.array_equal(reader.read(path, lambda _, n=numbers: n), read_frames(path, lambda _, n=numbers: n))
    reader.close()


def test_no_time_out_means_no_helper(make_video):
    reader = FrameReader(timeout_seconds=0)
    assert reader.read(make_video(), lambda _: [1]).shape == (1, 96, 160, 3)
    assert reader.helper_pids() == []


def test_a_decoder_that_hangs_is_given_up_and_the_next_file_is_fine(make_video, numbers_of, faulty_reader):
    good, bad = make_video(), make_video("hang.mp4")
    faulty_reader.read(good, lambda _: [1])
    hanging = pid_of(faulty_reader)
    with pytest.raises(DecodeError, match="longer than 2 s"):
        faulty_reader.read(bad, lambda _: [1])
    with pytest.raises(ProcessLookupError):
        os.kill(hanging, 0)
    assert numbers_of(faulty_reader.read(good, lambda _: [7])) == [7]


def test_a_decoder_that_crashes_is_named_and_the_next_file_is_fine(make_video, numbers_of, faulty_reader):
    good, bad = make_video(), make_video("crash.mp4")
    with pytest.raises(DecodeError, match=r"crashed the decoder \(a last word\)"):
        faulty_reader.read(bad, lambda _: [1])
    assert numbers_of(faulty_reader.read(good, lambda _: [7])) == [7]


def test_a_helper_ended_from_outside_is_replaced(make_video, numbers_of):
    path, reader = make_video(), FrameReader()
    reader.read(path, lambda _: [1])
    os.kill(pid_of(reader), signal.SIGKILL)
    assert numbers_of(reader.read(path, lambda _: [2])) == [2]
    reader.close()


def test_broken_files_and_wrong_numbers_leave_the_helper_usable(make_video, numbers_of, tmp_path):
    path, reader = make_video(), FrameReader()
    with pytest.raises(DecodeError, match="no such file"):
        reader.read(str(tmp_path / "nothing.mp4"), lambda _: [1])
    first = pid_of(reader)
    with pytest.raises(IndexError):
        reader.read(path, lambda info: [info.num_frames])
    assert numbers_of(reader.read(path, lambda _: [2])) == [2]
    assert pid_of(reader) == first
    with pytest.raises(IndexError, match="list index"):  # of the caller's own making
        reader.read(path, lambda _: [][0])
    assert numbers_of(reader.read(path, lambda _: [2])) == [2]
    assert pid_of(reader) == first
    with pytest.raises(ZeroDivisionError):
        reader.read(path, lambda _: 1 // 0)
    assert numbers_of(reader.read(path, lambda _: [2])) == [2]
    reader.close()


def test_a_reader_travels_without_its_helper(make_video):
    path, reader = make_video(), FrameReader()
    reader.read(path, lambda _: [1])
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.helper_pids() == []
    assert np.array_equal(copy.read(path, lambda _: [1]), reader.read(path, lambda _: [1]))
    copy.close()
    reader.close()


class Frames(Dataset):
    """A data set around a reader that the main process has used before."""

    def __init__(self, path: str, reader: FrameReader) -> None:
        self.path, self.reader = path, reader

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        frames = torch.from_numpy(self.reader.read(self.path, lambda _: [index]))
        return frames, pid_of(self.reader)


def test_daemonic_workers_have_helpers_of_their_own(make_video, numbers_of):
    path, reader = make_video(), FrameReader()
    reader.read(path, lambda _: [0])
    items = list(DataLoader(Frames(path, reader), batch_size=None, num_workers=2))
    assert [numbers_of(frames.numpy())[0] for frames, _ in items] == list(range(6))
    helpers = {pid for _, pid in items}
    assert len(helpers) == 2
    assert pid_of(reader) not in helpers
    assert reader.read(path, lambda _: [5]).shape == (1, 96, 160, 3)
    reader.close()


@pytest.mark.parametrize("name", ["clip.mp4", "hang.mp4"])
def test_helpers_end_with_a_parent_that_is_killed(name, make_video, tmp_path):
    path, notes = make_video(name), tmp_path / "pid"
    code = f"""
import os, sys, threading
from revit.video.data.decode.reader import FrameReader
reader = FrameReader(timeout_seconds=60, command=(sys.executable, "-c", {HELPER!r}))
reader.read({make_video("good.mp4")!r}, lambda _: [1])
open({str(notes)!r} + "0", "w").write(str(reader.helper_pids()[0]))
os.rename({str(notes)!r} + "0", {str(notes)!r})
if {path!r}.endswith("hang.mp4"):
    reader.read({path!r}, lambda _: [1])
threading.Event().wait()
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    wait_until(notes.exists)
    helper = int(notes.read_text())
    if "hang" in name:
        time.sleep(0.2)
    parent.kill()
    parent.wait()
    wait_until(lambda: not running(helper))


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_what_decoders_print_is_not_shown(make_video, capfd, tmp_path):
    path = tmp_path / "broken.mp4"
    good = Path(make_video()).read_bytes()
    path.write_bytes(good[:200] + bytes(3000) + good[3200:])
    capfd.readouterr()
    reader = FrameReader("decord")
    with pytest.raises(DecodeError):
        reader.read(str(path), lambda info: range(info.num_frames))
    reader.close()
    assert capfd.readouterr() == ("", "")
