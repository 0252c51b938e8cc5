"""The two kinds of failure a caller may want to tell apart from a defect."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: one clear message, exit status 2, no traceback."""
