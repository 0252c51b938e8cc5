"""One helper process that decodes, and the conversation with it. See `worker` for the other end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
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
MOST_SECONDS = 1e6  # longest time that the system can be told to wait
END_SECONDS = 5.0  # time that one may take to end whose pipe is closed, before it is killed


class Killed(Exception):
    """A helper was ended by a signal from outside, which the message names."""


class Helper:
    """One running helper process and the conversation with it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._noise = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as the process)
        self._file = shared_file()
        self._shared = SharedFrames(self._file)
        self._pipe, other = multiprocessing.Pipe()
        files = (self._file, other.fileno())
        try:
            with other:
                self.process = in_lasting_thread(lambda: self._start((*command, *map(str, files)), files))
        except BaseException:
            self._close()
            raise
        self.is_mid_conversation = False
        """True while the last answer to a request has not been read."""
        try:
            self._receive(time.monotonic() + START_SECONDS)
        except (EOFError, ConnectionError, TimeoutError) as error:
            is_late = isinstance(error, TimeoutError)
            words, signal = self._last_words(), None if is_late else self._ended_by()
            self.kill()
            if signal is not None:
                raise Killed(signal) from None
            late = f" in {START_SECONDS:g} s" if is_late else ""
            raise RuntimeError(f"the decoding helper {' '.join(command)} did not start{late}{words}") from error

    def _start(self, command: Sequence[str], files: Sequence[int]) -> subprocess.Popen[bytes]:
        # The folder the user stands in must not shadow numpy or av in the helper.
        environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        noise = self._noise
        return subprocess.Popen(
            command, pass_fds=files, stdin=subprocess.DEVNULL, stdout=noise, stderr=noise, env=environment
        )

    def read(
        self, path: str, choose_indices: ChooseIndices, backend: str, damaged: str, timeout_seconds: float
    ) -> NDArray[np.uint8]:
        """Read frames of a file. `DecodeError`, also for a time-out or a crash; `Killed`."""
        self._noise.seek(0)
        self._noise.truncate()
        deadline = time.monotonic() + timeout_seconds
        self.is_mid_conversation = True
        try:
            self._pipe.send((os.fspath(path), backend, damaged))
            while isinstance(answer := self._receive(deadline), VideoInfo):
                try:
                    wanted = checked(choose_indices(answer), answer)
                except Exception:
                    self._pipe.send(None)  # or it would take the next request for this answer
                    self.is_mid_conversation = False
                    raise
                self._pipe.send((wanted.numbers, wanted.short_side))
        except TimeoutError:
            reason = f"decoding took longer than {timeout_seconds:g} s and was given up"
            raise DecodeError(path, f"{reason} (data.loading.decode_timeout_seconds)") from None
        except (EOFError, ConnectionError):
            words, signal = self._last_words(), self._ended_by()
            if signal is not None:
                raise Killed(signal) from None
            raise DecodeError(path, f"decoding it crashed the decoder{words}") from None
        self.is_mid_conversation = False
        if isinstance(answer, str):
            raise DecodeError(path, answer)
        return self._shared.view(answer).copy()

    def _receive(self, deadline: float) -> Any:
        if not self._pipe.poll(min(max(0.0, deadline - time.monotonic()), MOST_SECONDS)):
            raise TimeoutError
        return self._pipe.recv()

    def _last_words(self) -> str:
        """Return the last line the helper printed, to go behind a reason, or nothing."""
        self._noise.seek(0)
        lines = self._noise.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1][:200]})" if lines else ""

    def _ended_by(self) -> str | None:
        """Wait for the end of a helper that has closed its pipe; return the signal if somebody else sent one."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return killed_from_outside(self.process.wait(END_SECONDS))
        return None

    def kill(self) -> None:
        """End the process and close what it was spoken to by."""
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        self._pipe.close()
        self._noise.close()
        os.close(self._file)
