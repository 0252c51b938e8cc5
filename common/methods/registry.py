"""The methods there are: the files of this folder, and what installed packages or tests add."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from revit.common import methods
from revit.common.methods.base import Method
from revit.common.system.errors import UserError

ENTRY_POINTS = "revit.methods"
"""The group under which an installed package names methods of its own."""
_ADDED: dict[str, type[Method[Any]]] = {}


def known_methods() -> Mapping[str, type[Method[Any]]]:
    """Name -> class."""
    return {**_installed(), **_ADDED}


def unknown_method(name: str) -> str:
    """Say what is wrong with a name that is not known."""
    known = known_methods()
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"no such method{meant or ';'} choose from {', '.join(sorted(known)) or 'none'}"


def check_installed(where: str, config: Mapping[str, Any]) -> None:
    """Raise UserError if the configuration in the checkpoint `where` has methods that are not installed."""
    named = config.get("methods") or {}
    if not isinstance(named, Mapping):
        raise UserError(f"{where}: the methods in its header are {named!r}, no mapping; copy it again")
    missing = [name for name in named if name not in known_methods()]
    if missing:
        raise UserError(
            f"{where}: trained with {', '.join(missing)}, which is not installed here ({unknown_method(missing[0])}); "
            "install the package that brings it, see CONTRIBUTING.md"
        )


def methods_found(names: Collection[str]) -> tuple[Method[Any], ...]:
    """Return the methods with which weights of these names were trained, as far as names tell."""
    found = (method.found_in(names) for method in known_methods().values())
    return tuple(method for method in found if method is not None)


@contextmanager
def added(name: str, method: type[Method[Any]]) -> Iterator[None]:
    """Add a method inside: for tests, and for trying one out."""
    _ADDED[name] = method
    try:
        yield
    finally:
        del _ADDED[name]


@cache
def _installed() -> Mapping[str, type[Method[Any]]]:
    found: dict[str, type[Method[Any]]] = {}
    for module in pkgutil.iter_modules(methods.__path__):
        method = getattr(importlib.import_module(f"{methods.__name__}.{module.name}"), "METHOD", None)
        if method is not None:
            found[module.name] = method
    return found | {point.name: point.load() for point in entry_points(group=ENTRY_POINTS)}
