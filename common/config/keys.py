"""Every key of a configuration with its type, default and meaning, as records, Markdown and a JSON schema.

The meanings are the docstrings below the fields of the option classes.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema
from pydantic_core import PydanticUndefined, to_jsonable_python

from revit.common.config.options import Options

SECTION = "section"
_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path", type(None): "null"}
_LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class Key:
    """One key as it is written; `N` in its path is a position in a list."""

    path: str
    type: str
    default: str
    """As it would be written in YAML, of a section only what its own keys do not say; empty for what must be given."""
    meaning: str
    kinds: tuple[str, ...]
    """Kinds of configuration that have it; in brackets the model, where models of one kind differ."""


def list_keys(classes: Mapping[str, type[Options]]) -> list[Key]:
    """Return the keys of all `classes`, by kind. Where kinds differ in a key, it is there once for each."""
    merged: dict[tuple[str, str, str, str], Key] = {}
    order: dict[str, int] = {}
    for kind, cls in classes.items():
        for key in _keys_of(cls, "", kind):
            content = (key.path, key.type, key.default, key.meaning)
            others = merged[content].kinds if content in merged else ()
            merged[content] = replace(key, kinds=tuple(dict.fromkeys((*others, *key.kinds))))
            for prefix in _prefixes(key.path):
                order.setdefault(prefix, len(order))
    return sorted(merged.values(), key=lambda key: [order[prefix] for prefix in _prefixes(key.path)])


def nearest_key(key: str, known: Iterable[str]) -> str:
    """Return the known key most like `key`, first of all one with the same last name."""
    last, known = key.rpartition(".")[2], list(known)
    same_name = [other for other in known if other.rpartition(".")[2] == last]
    return get_close_matches(key, same_name or known, n=1, cutoff=0)[0]


def as_markdown(keys: Iterable[Key]) -> str:
    """Return a heading, the meaning and a table of the keys for every section."""
    keys = list(keys)
    kinds = {kind for key in keys for kind in key.kinds if "(" not in kind}
    sections: dict[str, list[Key]] = {}
    for key in keys:
        holder = key.path if key.type.startswith(SECTION) else key.path.rpartition(".")[0]
        sections.setdefault(holder, []).append(key)
    lines: list[str] = []
    for name, members in sections.items():
        lines += [f"## {f'`{name}`' if name else 'Top level'}", ""]
        heads = [key for key in members if key.path == name]
        lines += [f"{_with_kinds(key, kinds)}\n" for key in heads if key.meaning]
        if rows := [key for key in members if key.path != name]:
            lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
            for key in rows:
                cells = (f"`{key.path.rpartition('.')[2]}`", key.type, f"`{key.default}`" if key.default else "", "")
                text = [cell.replace("|", "\\|") for cell in (*cells[:3], _with_kinds(key, kinds))]
                lines.append(f"| {' | '.join(text)} |")
            lines.append("")
    return "\n".join(lines)


def json_schema(kind: str, cls: type[Options]) -> dict[str, Any]:
    """Return a JSON schema for the YAML files of a kind, for editors. Keys are closed; with `base`, none is required."""
    members = {
        (holder, name): held
        for holder in _classes_in(cls)
        for name in holder.model_fields
        if (held := holder.members(name))
    }
    needed = [cls, *(option for held in members.values() for option in held.values())]
    references, schema = models_json_schema([(one, "validation") for one in dict.fromkeys(needed)])
    definitions = schema["$defs"]
    required = definitions[cls.__name__]["required"]
    for definition in definitions.values():
        definition.pop("required", None)
    for (holder, name), held in members.items():
        definitions[holder.__name__]["properties"][name] |= {
            "properties": {
                option: {"anyOf": [references[held[option], "validation"], {"type": ["null", "boolean"]}]}
                for option in held
            },
            "additionalProperties": False,
        }
    top = _any_of(definitions.pop(cls.__name__))
    base = {
        "type": "string",
        "description": "A YAML file, relative to this one: its settings hold where this one says nothing.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A configuration of kind {kind}",
        **{key: value for key, value in top.items() if key != "title"},
        "properties": {"base": base, **top["properties"]},
        "anyOf": [{"required": ["base"]}, {"required": required}],
        "$defs": {name: _any_of(definition) for name, definition in definitions.items()},
    }


def models_in(annotation: Any) -> Iterator[type[Options]]:
    """Yield every option class that a field of this type may hold, through unions, lists and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from models_in(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType, list, tuple, dict):
        for part in get_args(annotation):
            yield from models_in(part)


def _keys_of(cls: type[Options], prefix: str, kind: str) -> Iterator[Key]:
    for name, info in cls.model_fields.items():
        path, meaning, models = prefix + name, info.description or "", list(models_in(info.annotation))
        default = _yaml(info.default)
        if not models:
            yield Key(path, _type_text(info.annotation, info), default, _on_one_line(meaning), (kind,))
            continue
        inner = _without_null(info.annotation)
        is_list = get_origin(inner) is tuple
        what = f"list of {SECTION}s" if is_list else SECTION
        whole = " The default is for a section of which nothing is written." if default.startswith("{") else ""
        members = cls.members(name)
        for model in models:
            label = f"{kind} ({model.model_config.get('title', model.__name__)})" if len(models) > 1 else kind
            text = _on_one_line(meaning or model.__doc__ or "") + whole
            yield Key(path, what if inner is info.annotation else f"{what} or null", default, text, (label,))
            if not members:
                yield from _keys_of(model, f"{path}.N." if is_list else f"{path}.", label)
        for member, model in members.items():
            text = _on_one_line(model.__doc__ or "")
            yield Key(f"{path}.{member}", f"{SECTION}, null or false", "false", text, (kind,))
            yield from _keys_of(model, f"{path}.{member}.", kind)


def _type_text(annotation: Any, info: FieldInfo | None = None) -> str:
    limits = [
        f"{sign} {getattr(rule, name):g}"
        for rule in (info.metadata if info is not None else ())
        for name, sign in _LIMITS.items()
        if isinstance(getattr(rule, name, None), (int, float))
    ]
    if limits:
        inner = _without_null(annotation)
        return f"{_type_text(inner)} {' and '.join(limits)}{' or null' if inner is not annotation else ''}"
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(parts[0], FieldInfo.from_annotation(annotation))
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_text(part) for part in parts))
    if origin is tuple:
        if parts[1:] == (...,):
            return f"list of {_type_text(parts[0])}"
        return f"list of {len(parts)}: {', '.join(dict.fromkeys(_type_text(part) for part in parts))}"
    return "mapping" if origin is dict else _TYPES.get(annotation, "anything")


def _without_null(annotation: Any) -> Any:
    """Return X for `X | None`, and what is no such union as it is."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    is_optional = type(None) in get_args(annotation) and get_origin(annotation) in (Union, types.UnionType)
    return parts[0] if is_optional and len(parts) == 1 else annotation


def _yaml(value: Any) -> str:
    if isinstance(value, Options):
        value = value.model_dump(mode="json", exclude_defaults=True) or PydanticUndefined
    if value is PydanticUndefined or value == {}:
        return ""
    return yaml_text(to_jsonable_python(value))


def yaml_text(value: Any) -> str:
    """Write a value as YAML, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 30, allow_unicode=True)
    return text.strip().removesuffix("...").strip()


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _prefixes(path: str) -> Sequence[str]:
    parts = path.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _with_kinds(key: Key, kinds: set[str]) -> str:
    """Return the meaning, after the kinds that have the key if not all do."""
    return key.meaning if set(key.kinds) >= kinds else f"({', '.join(key.kinds)}) {key.meaning}".strip()


def _classes_in(cls: type[Options]) -> Iterator[type[Options]]:
    yield cls
    for info in cls.model_fields.values():
        for model in models_in(info.annotation):
            yield from _classes_in(model)


def _any_of(schema: Any) -> Any:
    """Return a schema whose alternatives need not exclude each other: without a required name, two models may both fit."""
    if isinstance(schema, dict):
        return {("anyOf" if key == "oneOf" else key): _any_of(value) for key, value in schema.items()}
    return [_any_of(one) for one in schema] if isinstance(schema, list) else schema
