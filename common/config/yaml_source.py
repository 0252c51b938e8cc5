"""YAML text and command-line overrides as plain data that remembers where each key was written."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from revit.common.config.options import FORMER_NAMES, with_present_names
from revit.common.system.errors import UserError

LOG = logging.getLogger("revit.config")

KeyPath = tuple[str | int, ...]


@dataclass
class Source:
    """What a file and the overrides say. `lines` maps key paths to lines, from 1; `overridden` came by command line."""

    path: Path
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    overridden: set[KeyPath] = field(default_factory=set)

    def place(self, key_path: KeyPath) -> str:
        """Where the nearest written ancestor of this key stands: `file:line`, `file`, or `command line`."""
        for length in range(len(key_path), 0, -1):
            if key_path[:length] in self.overridden:
                return "command line"
            if key_path[:length] in self.lines:
                return f"{self.path}:{self.lines[key_path[:length]]}"
        # A mapping that exists only because something inside it was set.
        inside = any(other[: len(key_path)] == key_path for other in self.overridden)
        return "command line" if key_path and inside else str(self.path)

    def remove(self, key_path: KeyPath) -> None:
        """Takes one existing key out."""
        holder: Any = self.data
        for key in key_path[:-1]:
            holder = holder[key]
        del holder[key_path[-1]]


class _Loader(yaml.SafeLoader):
    """The safe loader, with `1e-3` read as the number it is meant to be (YAML 1.1 makes it a string)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9_]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read(path: Path) -> Source:
    """Reads one YAML file whose top level is a mapping.

    Raises:
        UserError: file missing (with the nearest name there is), unreadable, empty, not YAML (with the line), not a
            mapping, or a key written twice in one mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{_nearest_file(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text file: {error}") from None
    source = Source(path, {})
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise UserError(f"{path}: the file is empty; a configuration is a mapping of keys to values")
            if not isinstance(node, yaml.MappingNode):
                found = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
                raise UserError(f"{path}: the top level must be a mapping of keys to values, not {found}")
            repeated = list(_note_lines(node, (), source))
            source.data = loader.construct_document(node)
            repeated += list(_use_present_names(source))
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise UserError(f"{path}{_where(error)}: not valid YAML: {_what(error)}") from None
    if repeated:
        raise UserError(
            "\n".join(f"{path}:{line}: {key}: written twice in this mapping" for key, line in repeated)
        )
    return source


def apply_overrides(source: Source, overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Sets `key.path=value` in `source`, making mappings on the way; returns (key, message) of those that cannot be."""
    problems = []
    for text in overrides:
        key, separator, value_text = text.partition("=")
        if not separator or not key or not all(key.split(".")):
            problems.append((text, "not of the form key.path=value"))
            continue
        try:
            value = yaml.load(value_text, Loader=_Loader)
        except yaml.YAMLError as error:
            problems.append(
                (key, f"found {value_text!r}; not valid YAML ({_what(error)}); quote text: '{key}=\"...\"'")
            )
            continue
        message = _set(source, key.split("."), value)
        if message:
            problems.append((key, message))
    return problems


def _use_present_names(source: Source) -> Iterator[tuple[str, int]]:
    """Rename sections that are called as they were in an earlier version; yield (key, line) of those given under both names."""
    for former, name in FORMER_NAMES.items():
        if former in source.data:
            line = source.lines[former,]
            if name in source.data:
                yield f"{former} and {name}", line
                continue
            _note_former_name(f"{source.path}:{line}", former, name)
            source.data = with_present_names(source.data)
            source.lines = {
                (name, *path[1:]) if path[0] == former else path: at for path, at in source.lines.items()
            }


@cache
def _note_former_name(place: str, former: str, name: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        LOG.warning(
            "%s: %s: this section is called %s now; the old name will be an error in the next version",
            *(place, former, name),
        )


def _set(source: Source, names: Sequence[str], value: Any) -> str | None:
    if names[0] in FORMER_NAMES:
        _note_former_name("command line", names[0], FORMER_NAMES[names[0]])
        names = (FORMER_NAMES[names[0]], *names[1:])
    holder: Any = source.data
    path: list[str | int] = []
    for position, name in enumerate(names):
        last = position == len(names) - 1
        key: str | int = name
        if isinstance(holder, list):
            if not name.isdigit() or int(name) >= len(holder):
                return f"found {name!r}; allowed: a position in the list {_dotted(path)}, which has {len(holder)}, from 0"
            key = int(name)
        path.append(key)
        if last:
            holder[key] = value
            whole = tuple(path)
            source.overridden.add(whole)
            source.lines = {old: line for old, line in source.lines.items() if old[: len(whole)] != whole}
            return None
        if isinstance(holder, dict) and holder.get(key) is None:
            holder[key] = {}
        if not isinstance(holder[key], (dict, list)):
            return f"{_dotted(path)} is the value {holder[key]!r}, so nothing can be set inside it"
        holder = holder[key]
    return None


def _note_lines(node: yaml.Node, path: KeyPath, source: Source) -> Iterator[tuple[str, int]]:
    """Fills `source.lines`; yields (key path, line) of keys that occur twice in one mapping."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            key_path = (*path, key.value if isinstance(key.value, str) else "?")
            line = key.start_mark.line + 1
            if key_path[-1] in seen:
                yield _dotted(key_path), line
            seen.add(str(key_path[-1]))
            source.lines[key_path] = line
            yield from _note_lines(value, key_path, source)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            source.lines[(*path, index)] = item.start_mark.line + 1
            yield from _note_lines(item, (*path, index), source)


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(str(key) for key in path)


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}" if mark is not None else ""


def _what(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).replace("\n", " ")


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (there is no folder {path.parent} either)"
    names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    near = get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
