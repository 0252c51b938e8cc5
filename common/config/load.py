"""Read a configuration file and the command line into one frozen, checked `Options` object, and write it back.

Everything that is wrong is reported at once, one line per problem: where it was written (file and line, or the command
line), the key path, the value found, what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from revit.common.config.keys import list_keys, models_in, nearest_key, yaml_text
from revit.common.config.options import Options
from revit.common.config.yaml_source import (
    COMMAND_LINE,
    KeyPath,
    Source,
    apply_overrides,
    dotted,
    read,
    set_value,
    walk,
)
from revit.common.system.errors import UserError

OptionsT = TypeVar("OptionsT", bound=Options)


def load(cls: type[OptionsT], path: str | Path, overrides: Sequence[str] = ()) -> OptionsT:
    """Read `path` (YAML) over its `base`, apply `key.path=value` overrides, and check the result against `cls`.

    Override values are parsed as YAML (`model.grids=[14x14,7x7]`, `optim.lr=1e-3`); a number in a key path is a
    position in a list (`data.lists.0=a.csv`); the later of two overrides of one key wins.

    Raises:
        UserError: with every problem found: unknown keys, wrong types, values out of range, contradictions. The last are
            looked for in groups whose values are all right by themselves: with a default in place of a wrong value there
            could be others than the user's.
    """
    source, problems = _read(path, overrides)
    return _check(cls, source, problems)


def load_by_kind(classes: Mapping[str, type[OptionsT]], path: str | Path, overrides: Sequence[str] = ()) -> OptionsT:
    """Load with the class that the top-level key `kind` chooses. UserError also when it is absent or not one of `classes`."""
    source, problems = _read(path, overrides)
    kind = source.data.get("kind")
    if not isinstance(kind, str) or kind not in classes:
        found = f"found {kind!r}" if "kind" in source.data else "not given"
        allowed = ", ".join(sorted(classes))
        raise _error([*problems, line(source.place(("kind",)), "kind", f"{found}; allowed: {allowed}")])
    return _check(classes[kind], source, problems)


def load_overrides(cls: type[OptionsT], overrides: Sequence[str]) -> OptionsT:
    """Return the defaults of `cls` with `key.path=value` overrides. UserError as `load`."""
    source = Source(Path(), {})
    return _check(cls, source, [line(COMMAND_LINE, key, text) for key, text in apply_overrides(source, overrides)])


def dump(options: Options, keys: Sequence[str] = ()) -> str:
    """Return YAML text from which `load` makes an equal object, or of it these `keys` only. UserError for an unknown one."""
    values = options.model_dump(mode="json")
    if keys:
        known = {dotted(path): value for path, value in walk(values)}
        chosen = Source(Path(), {})
        for key in keys:
            if key not in known:
                raise UserError(f"{key}: this configuration has no such key; did you mean {nearest_key(key, known)}?")
            set_value(chosen, key.split("."), known[key])
        values = chosen.data
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _read(path: str | Path, overrides: Sequence[str]) -> tuple[Source, list[str]]:
    source = read(Path(path))
    return source, [line(COMMAND_LINE, key, text) for key, text in apply_overrides(source, overrides)]


def _check(cls: type[OptionsT], source: Source, problems: list[str]) -> OptionsT:
    options = None
    # A second look without the unknown keys: pydantic tests for contradictions only where every key is known.
    for _ in range(2):
        try:
            options = cls.model_validate(source.data)
            problems += flags_taken_as_numbers(source, options)
            break
        except ValidationError as error:
            new, unknown = describe(error, cls, source)
            problems += [problem for problem in new if problem not in problems]
            if not unknown:
                break
            for key_path in unknown:
                del _value_at(source.data, key_path[:-1])[key_path[-1]]
    if problems or options is None:
        raise _error(problems)
    return options


def _error(problems: Sequence[str]) -> UserError:
    if len(problems) == 1:
        return UserError(problems[0])
    count = f"{len(problems)} problems in the configuration"
    return UserError("\n".join([count, *(f"  {problem}" for problem in problems)]))


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
    return [
        line(source.place(path), dotted(path), f"found {_short(value)}; allowed: a number")
        for path, value in walk(source.data)
        if isinstance(value, bool)
        and isinstance(taken := _value_at(options, path), (int, float))
        and not isinstance(taken, bool)
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
    for prefix, instead in (("Value error, ", ""), ("Assertion failed, ", ""), ("Input should be ", "allowed: ")):
        if message.startswith(prefix):
            return instead + message.removeprefix(prefix)
    return message[:1].lower() + message[1:]


def _unknown_key(cls: type[Options], loc: Sequence[str | int], path: KeyPath) -> str:
    known = sorted({name for model in _models_at(cls, loc[:-1]) for name in model.model_fields})
    name = str(path[-1])
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    elsewhere = [key.path for key in list_keys({"": cls}) if key.path.rpartition(".")[2] == name]
    if elsewhere:
        return f"unknown key here; did you mean {nearest_key(dotted(path), elsewhere)}?"
    return f"unknown key; allowed: {', '.join(known)}"


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
    text = yaml_text(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
