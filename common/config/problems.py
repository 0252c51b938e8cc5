"""Pydantic's findings in the user's terms: where it was written, the key path, the value, what is allowed."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from revit.common.config.yaml_source import KeyPath, Source

_ABSENT = object()


@dataclass(frozen=True)
class Problem:
    """One line of the report."""

    place: str
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.key}: {self.text}" if self.key else f"{self.place}: {self.text}"


def describe(
    error: ValidationError, cls: type[BaseModel], source: Source
) -> tuple[list[Problem], list[KeyPath]]:
    """The problems in file order of their keys, and the paths of those that are unknown keys."""
    merged: dict[KeyPath, list[str]] = {}
    unknown: list[KeyPath] = []
    for item in error.errors(include_url=False):
        path = _written_path(item["loc"], source.data, missing=item["type"] == "missing")
        texts = merged.setdefault(path, [])
        if item["type"] == "extra_forbidden":
            unknown.append(path)
            text = _unknown_key(cls, item["loc"], path)
        else:
            text = _allowed(item)  # type: ignore[arg-type]
        if text not in texts:
            texts.append(text)
    problems = []
    for path, texts in merged.items():
        value = _value_at(source.data, path)
        # A whole mapping is no useful "value found": its message (a contradiction) names the keys itself.
        found = "" if value is _ABSENT or isinstance(value, dict) else f"found {_short(value)}; "
        # Several texts for one key: the members of a union, each of which refused the value.
        problems.append(Problem(source.place(path), _dotted(path), found + ", or ".join(texts)))
    return problems, unknown


def flags_taken_as_numbers(source: Source, options: BaseModel) -> list[Problem]:
    """Values written true/false (also yes, no, on, off) where a number is meant, which pydantic would take as 1 or 0."""
    problems = []
    for path, value in _leaves(source.data, ()):
        if isinstance(value, bool):
            taken = _value_at(options, path)
            if isinstance(taken, (int, float)) and not isinstance(taken, bool):
                problems.append(
                    Problem(source.place(path), _dotted(path), f"found {_short(value)}; allowed: a number")
                )
    return problems


def _allowed(item: dict[str, Any]) -> str:
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


def _unknown_key(cls: type[BaseModel], loc: Sequence[str | int], path: KeyPath) -> str:
    models = _models_at(cls, loc[:-1])
    known = sorted({name for model in models for name in model.model_fields})
    name = str(path[-1])
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    elsewhere = sorted(key for key in _all_keys(cls) if key.rsplit(".", 1)[-1] == name)
    if elsewhere:
        return f"unknown key here; did you mean {elsewhere[0]}?"
    return f"unknown key; allowed: {', '.join(known)}"


def _written_path(loc: Sequence[str | int], data: Any, *, missing: bool) -> KeyPath:
    """Pydantic's location without what it adds for unions (tags, type names), which nobody wrote."""
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


def _models_at(cls: type[BaseModel], loc: Sequence[str | int]) -> list[type[BaseModel]]:
    models = [cls]
    for key in loc:
        if isinstance(key, int):
            continue
        holders = [model for model in models if key in model.model_fields]
        if holders:
            models = [inner for model in holders for inner in _models_in(model.model_fields[key].annotation)]
        else:  # the tag of a discriminated union, or the name of a union's member
            named = [model for model in models if key in _tags(model) or key == model.__name__]
            models = named or [inner for model in models if (inner := _member(model, key))] or models
    return models


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every configuration class that a field of this type may hold, through unions, lists and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from _models_in(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType, list, tuple, dict):
        for part in get_args(annotation):
            yield from _models_in(part)


def _member(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The class behind `key` where a mapping's values are of a class each."""
    find = getattr(model, "member", None)
    return None if find is None else find(key)


def _tags(model: type[BaseModel]) -> set[Any]:
    literals = (
        info.annotation for info in model.model_fields.values() if get_origin(info.annotation) is Literal
    )
    return {value for annotation in literals for value in get_args(annotation)}


def _all_keys(cls: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in cls.model_fields.items():
        yield prefix + name
        for model in _models_in(info.annotation):
            yield from _all_keys(model, f"{prefix}{name}.")


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
    """The value as one would write it in YAML, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 30, allow_unicode=True).strip()
    text = text.removesuffix("...").strip()
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(str(key) for key in path)
