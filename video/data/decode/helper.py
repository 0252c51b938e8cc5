"""One helper process that decodes, and the conversation with it. See `worker` for the other end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revit.common.system.processes import in_lasting_thread, killed_from_outside
from revit.video.data.decode import ChooseIndices, DecodeError, VideoInfo, checked
from revit.video.data.decode.shared_frames import SharedFrames, shared_file

START_SECONDS = 60.0  # time that a helper may take to start (a cold disk reads its libraries for seconds)
MOST_MILLISECONDS = 1e9  # longest time that the system can be told to wait
END_SECONDS = 5.0  # time that one may take to end whose pipes are closed, before it is killed


class Killed(Exception):
    """A helper was ended by a signal from outside, which the message names."""


class Helper:
    """One running helper process and the conversation with it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._noise = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as the process)
        self._file = shared_file()
        self._shared = SharedFrames(self._file)
        try:
            self.process = in_lasting_thread(lambda: self._start(command))
        except BaseException:
            self._noise.close()
            os.close(self._file)
            raise
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._answers = self.process.stdin, self.process.stdout
        self._poll = select.poll()  # unlike select.select it takes any number of open files
        self._poll.register(self._answers, select.POLLIN)
        self._buffer = bytearray()
        self._deadline = time.monotonic() + START_SECONDS
        self.is_mid_conversation = False
        """True while the last answer to a request has not been read."""
        try:
            self._line()
        except (EOFError, TimeoutError) as error:
            is_late = isinstance(error, TimeoutError)
            words, signal = self._last_words(), None if is_late else self._ended_by()
            self.kill()
            if signal is not None:
                raise Killed(signal) from None
            late = f" in {START_SECONDS:g} s" if is_late else ""
            raise RuntimeError(
                f"the decoding helper {' '.join(command)} did not start{late}{words}"
            ) from error

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        # The folder the user stands in must not shadow numpy or av in the helper.
        environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            (*command, str(self._file)),
            pass_fds=(self._file,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            bufsize=0,
            env=environment,
        )

    def read(
        self, path: str, choose_indices: ChooseIndices, backend: str, damaged: str, timeout_seconds: float
    ) -> NDArray[np.uint8]:
        """Read frames of a file. `DecodeError`, also for a time-out or a crash; `Killed`."""
        self._noise.seek(0)
        self._noise.truncate()
        self._deadline = time.monotonic() + timeout_seconds
        self.is_mid_conversation = True
        try:
            self._send({"path": os.fspath(path), "backend": backend, "damaged": damaged})
            while "info" in (answer := self._line()):
                info = VideoInfo(**answer["info"])
                try:
                    wanted = checked(choose_indices(info), info)
                except Exception:
                    self._send({"cancel": True})  # or it would take the next request for this answer
                    self.is_mid_conversation = False
                    raise
                self._send({"indices": wanted.numbers.tolist(), "short_side": wanted.short_side})
        except TimeoutError:
            reason = f"decoding took longer than {timeout_seconds:g} s and was given up"
            raise DecodeError(path, f"{reason} (data.loading.decode_timeout_seconds)") from None
        except (EOFError, BrokenPipeError):
            words, signal = self._last_words(), self._ended_by()
            if signal is not None:
                raise Killed(signal) from None
            raise DecodeError(path, f"decoding it crashed the decoder{words}") from None
        self.is_mid_conversation = False
        if "error" in answer:
            raise DecodeError(path, answer["error"])
        return self._shared.view(tuple(answer["shape"])).copy()

    def _last_words(self) -> str:
        """Return the last line the helper printed, to go behind a reason, or nothing."""
        self._noise.seek(0)
        lines = self._noise.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1][:200]})" if lines else ""

    def _ended_by(self) -> str | None:
        """Wait for the end of a helper that has closed its pipes; return the signal if somebody else sent one."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return killed_from_outside(self.process.wait(END_SECONDS))
        return None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for file in (self._requests, self._answers, self._noise):
            file.close()
        os.close(self._file)

    def _send(self, message: dict[str, Any]) -> None:
        self._requests.write(json.dumps(message).encode() + b"\n")

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = self._deadline - time.monotonic()
            if left <= 0 or not self._poll.poll(min(1000 * left, MOST_MILLISECONDS)):
                raise TimeoutError
            data = os.read(self._answers.fileno(), 65536)
            if not data:
                raise EOFError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
