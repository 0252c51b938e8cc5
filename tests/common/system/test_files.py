"""Locks name who holds them; what is no file stays what it is."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from revit.common.system.errors import UserError
from revit.common.system.files import check_writable, locked, write_json

HOLDER = f"process {os.getpid()} on {socket.gethostname()}"


def test_the_refusal_says_who_works_there(tmp_path):
    lock = tmp_path / "run" / ".lock"
    lock.parent.mkdir()
    lock.write_text("process 1234567 on a machine of earlier days, with a long name\n")
    for _ in range(2):  # once more after it was freed
        with locked(lock, "another run works in this folder"):
            with pytest.raises(UserError) as refused, locked(lock, "another run works in this folder"):
                pass
            assert str(refused.value) == (
                f"{lock.parent}: another run works in this folder ({HOLDER}); wait for it, end it, or choose another folder"
            )
            assert lock.read_text() == f"{HOLDER}\n"  # who asked in vain changed nothing


def test_a_holder_that_did_not_say_who_it_is(tmp_path):
    with locked(tmp_path / ".lock"):
        os.truncate(tmp_path / ".lock", 0)
        with pytest.raises(UserError, match="busy; wait"), locked(tmp_path / ".lock", "busy"):
            pass


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    # As root, `--json /dev/null` would otherwise put a file where everybody's device was.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_writable(pipe)
        write_json(pipe, {"a": 1})
        assert os.read(reading, 100) == b'{\n  "a": 1\n}\n'
    finally:
        os.close(reading)
    assert pipe.is_fifo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]
