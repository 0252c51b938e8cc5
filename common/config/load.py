"""A configuration file and the command line become one frozen, checked `Options` object.

Everything that is wrong is reported at once, one line per problem: where it was written (file and line, or the
command line), the key path, the value found, what is allowed. The reading half is `yaml_source.py`; putting
pydantic's findings into such lines is `config_errors.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from revit.common.config.options import Options
from revit.common.config.problems import Problem, describe, flags_taken_as_numbers
from revit.common.config.yaml_source import Source, apply_overrides, read
from revit.common.system.errors import UserError

OptionsT = TypeVar("OptionsT", bound=Options)


def load(cls: type[OptionsT], path: str | Path, overrides: Sequence[str] = ()) -> OptionsT:
    """Reads `path` (YAML), applies `key.path=value` overrides, checks the result against `cls`.

    Override values are parsed as YAML (`model.grids=[14x14,7x7]`, `optim.lr=1e-3`); a number in a key path is a
    position in a list (`data.lists.0=a.csv`); the later of two overrides of one key wins.

    Raises:
        UserError: with every problem found: unknown keys, wrong types, values out of range, contradictions. The last are
            looked for in groups whose values are all right by themselves: with a default in place of a wrong value there
            could be others than the user's.
    """
    source, problems = _read(path, overrides)
    return _check(cls, source, problems)


def load_by_kind(
    classes: Mapping[str, type[OptionsT]], path: str | Path, overrides: Sequence[str] = ()
) -> OptionsT:
    """As `load`, with the class chosen by the file's top-level key `kind`.

    Raises:
        UserError: also when `kind` is absent or not one of `classes`.
    """
    source, problems = _read(path, overrides)
    kind = source.data.get("kind")
    if not isinstance(kind, str) or kind not in classes:
        found = f"found {kind!r}" if "kind" in source.data else "not given"
        allowed = ", ".join(sorted(classes))
        raise _error([*problems, Problem(source.place(("kind",)), "kind", f"{found}; allowed: {allowed}")])
    return _check(classes[kind], source, problems)


def dump(options: Options) -> str:
    """YAML text from which `load` makes an equal object: the copy to keep beside results."""
    return yaml.safe_dump(options.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: str | Path, overrides: Sequence[str]) -> tuple[Source, list[Problem]]:
    source = read(Path(path))
    problems = [Problem("command line", key, text) for key, text in apply_overrides(source, overrides)]
    return source, problems


def _check(cls: type[OptionsT], source: Source, problems: list[Problem]) -> OptionsT:
    problems = list(problems)
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


def _error(problems: Sequence[Problem]) -> UserError:
    lines = [str(problem) for problem in problems]
    if len(lines) == 1:
        return UserError(lines[0])
    return UserError(
        "\n".join([f"{len(lines)} problems in the configuration", *(f"  {line}" for line in lines)])
    )
