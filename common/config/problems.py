"""Messages for pydantic's errors: where the value was written, its key path, the value, what is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from itertools import takewhile
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from revit.common.config.keys import list_keys, models_in
from revit.common.config.options import Options
from revit.common.config.yaml_source import KeyPath, Source, dotted

_ABSENT = object()


def describe(error: ValidationError, cls: type[Options], source: Source) -> tuple[list[str], list[KeyPath]]:
    """Return a line for every key that is wrong, and the paths of those that are unknown."""
    merged: dict[KeyPath, list[str]] = {}
    unknown: list[KeyPath] = []
    for item in error.errors(include_url=False):
        path = _written_path(item["loc"], source.data, missing=item["type"] == "missing")
        texts = merged.setdefault(path, [])
        if item["type"] == "extra_forbidden":
            unknown.append(path)
            text = _unknown_key(cls, item["loc"], path)
        else:
            text = _allowed(item)
        if text not in texts:
            texts.append(text)
    lines = []
    for path, texts in merged.items():
        value = _value_at(source.data, path)
        # A whole mapping is no useful "value found": its message (a contradiction) names the keys itself.
        found = "" if value is _ABSENT or isinstance(value, dict) else f"found {_short(value)}; "
        # Several texts for one key: the members of a union, each of which refused the value.
        lines.append(line(source.place(path), dotted(path), found + ", or ".join(texts)))
    return lines, unknown


def flags_taken_as_numbers(source: Source, options: BaseModel) -> list[str]:
    """Return a line for every true/false (yes, no, on, off) where a number is meant: pydantic takes them as 1 and 0."""
    flags = [(path, value) for path, value in _leaves(source.data, ()) if isinstance(value, bool)]
    return [
        line(source.place(path), dotted(path), f"found {_short(value)}; allowed: a number")
        for path, value in flags
        if isinstance(taken := _value_at(options, path), (int, float)) and not isinstance(taken, bool)
    ]


def line(place: str, key: str, text: str) -> str:
    """Return one line of the report; `key` is empty for what is wrong with the whole."""
    return f"{place}: {key}: {text}" if key else f"{place}: {text}"


def _allowed(item: ErrorDetails) -> str:
    kind, message = item["type"], item["msg"]
    if kind == "missing":
        return "not given; it is required"
    if kind == "union_tag_not_found":
        return f"the key {item['ctx']['discriminator']} is not given; it decides what else is allowed here"
    if kind == "union_tag_invalid":
        context = item["ctx"]
        return f"{context['discriminator'].strip(chr(39))} is {context['tag']!r}; allowed: {context['expected_tags']}"
    for prefix in ("Value error, ", "Assertion failed, "):
        if message.startswith(prefix):
            return message[len(prefix) :]
    prefix = "Input should be "
    if message.startswith(prefix):
        return "allowed: " + message[len(prefix) :]
    return message[:1].lower() + message[1:]


def _unknown_key(cls: type[Options], loc: Sequence[str | int], path: KeyPath) -> str:
    known = sorted({name for model in _models_at(cls, loc[:-1]) for name in model.model_fields})
    name = str(path[-1])
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    elsewhere = [key.path for key in list_keys({"": cls}) if key.path.rpartition(".")[2] == name]
    if elsewhere:
        return f"unknown key here; did you mean {max(elsewhere, key=partial(_nearness, path))}?"
    return f"unknown key; allowed: {', '.join(known)}"


def _nearness(path: KeyPath, key: str) -> tuple[int, int]:
    """Return how many sections a key shares with a written path, and then how short it is."""
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(path, key.split(".")))
    return len(list(shared)), -key.count(".")


def _written_path(loc: Sequence[str | int], data: Any, *, missing: bool) -> KeyPath:
    """Return pydantic's location without what it adds for unions (tags, type names), which nobody wrote."""
    path: list[str | int] = []
    for position, key in enumerate(loc):
        is_last = position == len(loc) - 1
        inside_mapping = isinstance(data, dict) and isinstance(key, str)
        inside_list = isinstance(data, (list, tuple)) and isinstance(key, int) and key < len(data)
        if (inside_mapping and key in data) or inside_list:
            data = data[key]
        elif not (missing and is_last):
            continue
        path.append(key)
    return tuple(path)


def _models_at(cls: type[Options], loc: Sequence[str | int]) -> list[type[Options]]:
    """Return the classes that the section at pydantic's location may be of."""
    models: list[type[Options]] = [cls]
    members: dict[str, type[Options]] = {}
    for key in loc:
        if isinstance(key, int):
            continue
        holders = [model for model in models if key in model.model_fields]
        if key in members:
            models, members = [members[key]], {}
        elif holders:
            members = {name: held for model in holders for name, held in model.members(key).items()}
            models = [inner for model in holders for inner in models_in(model.model_fields[key].annotation)]
        else:  # the tag of a discriminated union, or the name of a union's member
            models = [model for model in models if key in _tags(model) or key == model.__name__] or models
    return models


def _tags(model: type[Options]) -> set[Any]:
    annotations = (info.annotation for info in model.model_fields.values())
    return {tag for one in annotations if get_origin(one) is Literal for tag in get_args(one)}


def _leaves(data: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _leaves(value, (*path, index))
    else:
        yield path, data


def _value_at(data: Any, path: KeyPath) -> Any:
    for key in path:
        if isinstance(data, dict) and key in data:  # noqa: SIM114 (one test would not narrow the types)
            data = data[key]
        elif isinstance(data, (list, tuple)) and isinstance(key, int) and key < len(data):
            data = data[key]
        elif isinstance(data, BaseModel) and isinstance(key, str):
            data = getattr(data, key, _ABSENT)
        else:
            return _ABSENT
    return data


def _short(value: Any, limit: int = 80) -> str:
    """Return the value as it would be written in YAML, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 30, allow_unicode=True).strip()
    text = text.removesuffix("...").strip()
    return text if len(text) <= limit else text[: limit - 3] + "..."
