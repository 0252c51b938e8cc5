"""The methods there are: the files of this folder, and what installed packages or tests add."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points

from revit.common import methods
from revit.common.methods.method import Method

ENTRY_POINTS = "revit.methods"
"""The group under which an installed package names methods of its own."""
_ADDED: dict[str, type[Method]] = {}


def known_methods() -> Mapping[str, type[Method]]:
    """Name -> class."""
    return {**_installed(), **_ADDED}


@contextmanager
def added(name: str, method: type[Method]) -> Iterator[None]:
    """Inside, there is one method more: for tests, and for trying one out."""
    _ADDED[name] = method
    try:
        yield
    finally:
        del _ADDED[name]


@cache
def _installed() -> Mapping[str, type[Method]]:
    found: dict[str, type[Method]] = {}
    for module in pkgutil.iter_modules(methods.__path__):
        method = getattr(importlib.import_module(f"{methods.__name__}.{module.name}"), "METHOD", None)
        if method is not None:
            found[module.name] = method
    return found | {point.name: point.load() for point in entry_points(group=ENTRY_POINTS)}
