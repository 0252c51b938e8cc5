"""Read a configuration file and the command line into one frozen, checked `Options` object, and write it back.

Everything that is wrong is reported at once, one line per problem: where it was written (file and line, or the command
line), the key path, the value found, what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from revit.common.config.keys import nearest_key
from revit.common.config.options import Options
from revit.common.config.problems import describe, flags_taken_as_numbers, line
from revit.common.config.yaml_source import COMMAND_LINE, Source, apply_overrides, dotted, read, set_value, walk
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
        chosen = Source(Path(), {})
        for key in keys:
            set_value(chosen, key.split("."), _value_of(values, key))
        values = chosen.data
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _value_of(values: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key. UserError that names the nearest key there is."""
    known = {dotted(path): value for path, value in walk(values)}
    if key not in known:
        raise UserError(f"{key}: this configuration has no such key; did you mean {nearest_key(key, known)}?")
    return known[key]


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
                source.remove(key_path)
    if problems or options is None:
        raise _error(problems)
    return options


def _error(problems: Sequence[str]) -> UserError:
    if len(problems) == 1:
        return UserError(problems[0])
    count = f"{len(problems)} problems in the configuration"
    return UserError("\n".join([count, *(f"  {problem}" for problem in problems)]))
