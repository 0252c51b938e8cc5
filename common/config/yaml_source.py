"""YAML files and command-line overrides as plain data that remembers where each key was written."""

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

BASE = "base"
"""Key that names the file whose settings hold where this one says nothing."""
COMMAND_LINE = "command line"

KeyPath = tuple[str | int, ...]


@dataclass
class Source:
    """A configuration as plain data."""

    path: Path
    data: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)
    """`file:line` or `command line` of every key that was written."""

    def place(self, key_path: KeyPath) -> str:
        """Return where the nearest written ancestor of this key stands, or the file."""
        for length in range(len(key_path), 0, -1):
            if key_path[:length] in self.places:
                return self.places[key_path[:length]]
        # A mapping that exists only because an override set something inside it.
        inside = any(path[: len(key_path)] == key_path for path in self.places)
        return COMMAND_LINE if key_path and inside else str(self.path)

    def forget_places(self, key_path: KeyPath) -> None:
        """Drop the places of a key and of all that was inside it."""
        length = len(key_path)
        self.places = {path: place for path, place in self.places.items() if path[:length] != key_path}


class _Loader(yaml.SafeLoader):
    """The safe loader, with `1e-3` read as the number it is meant to be (YAML 1.1 makes it a string)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9_]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read(path: Path, above: Sequence[Path] = ()) -> Source:
    """Read a YAML file whose top level is a mapping, laid over the file that its key `base` names.

    Mappings are merged key by key; lists and single values replace those of the base. `above` are the files that led here.

    Raises:
        UserError: a file is missing (with the nearest name there is), unreadable, empty, not YAML (with the line) or no
            mapping; a key is written twice in one mapping; bases go round in a circle.
    """
    source = _read_alone(path)
    if BASE not in source.data:
        return source
    name, place = source.data.pop(BASE), source.places.pop((BASE,))
    if not isinstance(name, str):
        raise UserError(f"{place}: {BASE}: found {name!r}; allowed: the path of one YAML file, relative to this file")
    base = path.parent / name
    if not base.is_file():
        raise UserError(
            f"{place}: {BASE}: {base}: no such file{_nearest_file(base)}; the path is relative to the file that names it"
        )
    chain = [*above, path]
    if any(base.samefile(other) for other in chain):
        circle = " -> ".join(str(file) for file in [*chain, base])
        raise UserError(f"{place}: {BASE}: the files build on each other in a circle ({circle}); remove one")
    merged = read(base, chain)
    _lay_over(merged, source, (), merged.data, source.data)
    merged.path = path
    return merged


def apply_overrides(source: Source, overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Set `key.path=value` in `source`, making mappings on the way; return (key, message) of those that cannot be."""
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
        message = set_value(source, key.split("."), value)
        if message:
            problems.append((key, message))
    return problems


def dotted(path: Sequence[str | int]) -> str:
    """Return a key path as it is written on the command line."""
    return ".".join(str(key) for key in path)


def walk(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every key path below `data` and what is there, sections before what is in them."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield (*path, key), value
        yield from walk(value, (*path, key))


def _read_alone(path: Path) -> Source:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{_nearest_file(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text file: {error}") from None
    source = Source(path, {})
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            raise UserError(f"{path}: the file is empty; a configuration is a mapping of keys to values")
        if not isinstance(node, yaml.MappingNode):
            found = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
            raise UserError(f"{path}: the top level must be a mapping of keys to values, not {found}")
        repeated = _note_places(node, (), source)
        source.data = _Loader("").construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise UserError(f"{path}{line}: not valid YAML: {_what(error)}") from None
    repeated += _use_present_names(source)
    if repeated:
        raise UserError("\n".join(repeated))
    return source


def _note_places(node: yaml.Node, path: KeyPath, source: Source) -> list[str]:
    """Fill `source.places`; return a message for every key that occurs twice in one mapping."""
    children: list[tuple[str | int, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        children = [(key.value if isinstance(key.value, str) else "?", key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(index, item, item) for index, item in enumerate(node.value)]
    repeated: list[str] = []
    seen: set[str | int] = set()
    for name, written, value in children:
        inner = (*path, name)
        source.places[inner] = place = f"{source.path}:{written.start_mark.line + 1}"
        if name in seen:
            repeated.append(f"{place}: {dotted(inner)}: written twice in this mapping")
        seen.add(name)
        repeated += _note_places(value, inner, source)
    return repeated


def _use_present_names(source: Source) -> list[str]:
    """Rename sections called as in an earlier version; return a message for those given under both names."""
    repeated = []
    for former in [name for name in FORMER_NAMES if name in source.data]:
        present, place = FORMER_NAMES[former], source.places[former,]
        if present in source.data:
            repeated.append(
                f"{place}: {former}: this is the former name of {present}, which is written too; remove one"
            )
            continue
        _note_former_name(place, former)
        source.data = with_present_names(source.data)
        source.places = {(present, *path[1:]) if path[0] == former else path: at for path, at in source.places.items()}
    return repeated


@cache
def _note_former_name(place: str, former: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # one process speaks for all
        message = "%s: %s: this section is called %s now; the old name will be an error in the next version"
        LOG.warning(message, place, former, FORMER_NAMES[former])


def _lay_over(base: Source, own: Source, path: KeyPath, holder: dict[str, Any], values: dict[str, Any]) -> None:
    """Merge `values`, which stand at `path` of `own`, into `holder`, which `base` has there."""
    for name, value in values.items():
        inner = (*path, name)
        if isinstance(value, dict) and isinstance(holder.get(name), dict):
            base.places[inner] = own.place(inner)
            _lay_over(base, own, inner, holder[name], value)
            continue
        holder[name] = value
        base.forget_places(inner)
        base.places |= {key: place for key, place in own.places.items() if key[: len(inner)] == inner}


def set_value(source: Source, names: Sequence[str], value: Any) -> str | None:
    """Set the value at a key path as the command line does, making mappings on the way; return why that cannot be."""
    if names[0] == BASE:
        return "a base is named in a configuration file, not on the command line"
    if names[0] in FORMER_NAMES:
        _note_former_name(COMMAND_LINE, names[0])
        names = (FORMER_NAMES[names[0]], *names[1:])
    holder: Any = source.data
    path: list[str | int] = []
    for position, name in enumerate(names):
        key: str | int = name
        if isinstance(holder, list):
            if not name.isdigit() or int(name) >= len(holder):
                return (
                    f"found {name!r}; allowed: a position in the list {dotted(path)}, which has {len(holder)}, from 0"
                )
            key = int(name)
        path.append(key)
        if position == len(names) - 1:
            holder[key] = value
            source.forget_places(tuple(path))
            source.places[tuple(path)] = COMMAND_LINE
            return None
        if isinstance(holder, dict) and holder.get(key) is None:
            holder[key] = {}
        if not isinstance(holder[key], (dict, list)):
            return f"{dotted(path)} is the value {holder[key]!r}, so nothing can be set inside it"
        holder = holder[key]
    return None


def _what(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).replace("\n", " ")


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (there is no folder {path.parent} either)"
    names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    near = get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
