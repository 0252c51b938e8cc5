"""The kinds of failure a caller may want to tell apart from a defect."""

from __future__ import annotations

import os
import re


class UserError(Exception):
    """Something the user can put right: one clear message, exit status 2, no traceback."""


class OwnError(UserError):
    """A UserError of one process among several; its message says which."""


class SaidElsewhere(UserError):
    """A UserError whose message another process of the run prints."""


class Stopped(BaseException):
    """The run was asked to end before it was done, and can go on: exit status 75. The message says from where.

    Like KeyboardInterrupt it is no Exception: nothing that forgives a damaged file may take it for one.
    """


def reason_of(error: BaseException) -> str:
    """Return the system's reason why a file could not be read or written, also from below a library's own error."""
    rust = re.search(r"\(os error (\d+)\)", str(error))
    if rust is not None:
        return os.strerror(int(rust[1]))
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError) and below.strerror:
            return below.strerror
        below = below.__cause__ or below.__context__
    return (str(error) or type(error).__name__).splitlines()[0]
