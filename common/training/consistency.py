"""Whether the processes of a run belong together: the same settings, the same folder."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from revit.common.system.distributed import DistributedContext
from revit.common.system.errors import UserError
from revit.common.system.files import write_text
from revit.common.training.stage_book import TOKEN, changes

PATIENCE_S = 10.0
"""Seconds a file may take to show on another machine: shared folders are looked up anew every few seconds."""


def check_same(settings: Mapping[str, Any], context: DistributedContext) -> None:
    """Raise UserError, on every process, where one was given other `settings`; it names the first key that differs."""
    (host, ours), *others = context.gather((socket.gethostname(), settings))
    for rank, (other_host, theirs) in enumerate(others, 1):
        for key, one, other in changes(ours, theirs):
            raise UserError(
                f"the processes of this run were given different settings, first of all {key}: {one} for rank 0 on {host}, "
                f"{other} for rank {rank} on {other_host}; start all of them by the same command with the same file"
            )


def check_shared(folder: Path, context: DistributedContext, patience_s: float = PATIENCE_S) -> None:
    """Raise UserError, on every process, where one does not see what rank 0 writes into `folder` now.

    That the folder exists, and has an older run's files in it, says nothing: every machine may have one of its own.
    """
    if context.size == 1:
        return
    path = folder / TOKEN
    host, token = context.on_main(lambda: _leave_token(path))
    blind = context.gather(None if _sees(path, token, patience_s) else socket.gethostname())
    if context.is_main:
        path.unlink(missing_ok=True)
    names = sorted({name for name in blind if name is not None})
    if names:
        raise UserError(
            f"{folder} is not the same folder on all machines: {' and '.join(names)} cannot read there what rank 0 on {host} "
            "writes; give a run.dir that all machines share"
        )


def _leave_token(path: Path) -> tuple[str, str]:
    token = secrets.token_hex(16)
    write_text(path, token)
    return socket.gethostname(), token


def _sees(path: Path, token: str, patience_s: float) -> bool:
    end = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.read_text("utf-8") == token:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
