"""The kinds of failure a caller may want to tell apart from a defect."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: one clear message, exit status 2, no traceback."""


class OwnError(UserError):
    """A UserError of one process among several; its message says which."""


class SaidElsewhere(UserError):
    """A UserError whose message another process of the run prints."""


class Stopped(Exception):
    """The run was asked to end before it was done, and can go on: exit status 75. The message says from where."""
