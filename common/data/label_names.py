"""Class names: the file that lists them, and the number of a label."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence

from revit.common.system.errors import UserError


def check_label(label: str, number_of: Mapping[str, int] | None, first: int = 0) -> int:
    """Return the class number that `label` means: a known name, or a whole number, counted from `first`. ValueError for others."""
    if number_of is not None and label in number_of:
        return number_of[label]
    try:
        number = int(label)
    except ValueError:
        if number_of is None:
            raise ValueError(f"label {label!r} is not a whole number") from None
        raise ValueError(f"label {label!r} is none of the {len(number_of)} class names") from None
    if number < first:
        raise ValueError(f"label {number} is " + (f"below {first}, the first label" if first else "negative"))
    if number_of is not None and number - first >= len(number_of):
        last = len(number_of) - 1 + first
        raise ValueError(f"label {number} is outside {first}..{last} (there are {len(number_of)} class names)")
    return number - first


def read_label_names(path: str) -> tuple[str, ...]:
    """Return class names in order of their numbers, from a list or map (`.json`), rows of number and name, in either order,
    or names alone (`.csv`, with or without a header), or one name per line, with its number in front or without.

    UserError if the file cannot be read or its numbers are not 0, 1, 2, ... each once.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
        if path.endswith(".json"):
            names = _from_json(json.loads(text))
        elif path.endswith(".csv"):
            names = _from_rows([row for row in csv.reader(text.splitlines()) if any(map(str.strip, row))])
        else:
            names = _from_lines([line.strip() for line in text.splitlines() if line.strip()])
    except OSError as error:
        raise UserError(f"{path}: cannot read the class names ({(error.strerror or str(error)).lower()})") from None
    except ValueError as error:
        raise UserError(f"{path}: not a list of class names: {error}") from None
    if not names:
        raise UserError(f"{path}: no class names in it")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UserError(f"{path}: class names appear more than once: {', '.join(twice[:5])}")
    return tuple(names)


def are_numbers(names: Sequence[str]) -> bool:
    """Say whether class names only repeat the class numbers, as in a list without names."""
    return all(name == str(number) for number, name in enumerate(names))


def _from_json(content: object) -> list[str]:
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content
    if isinstance(content, dict) and content:
        by_name = all(isinstance(number, int) for number in content.values())
        if by_name or not all(map(str.isdecimal, content)):  # Something-Something's labels.json: {"Approaching": "0"}
            return _ordered({int(number): str(name) for name, number in content.items()}, len(content))
        return _ordered({int(number): str(name) for number, name in content.items()}, len(content))
    raise ValueError("expected a list of names, or a map between names and numbers")


def _from_rows(rows: list[list[str]]) -> list[str]:
    cells = [[cell.strip() for cell in row] for row in rows]
    if cells and all(len(row) == 1 for row in cells):
        return [row[0] for row in cells]
    for number_at in (0, 1):
        for body in (cells, cells[1:]):  # the first row may be a header
            if body and all(len(row) >= 2 and row[number_at].isdecimal() for row in body):
                return _ordered({int(row[number_at]): row[1 - number_at] for row in body}, len(body))
    raise ValueError("expected rows `number,name`, `name,number` or `name`")


def _from_lines(lines: list[str]) -> list[str]:
    numbered = [line.split(None, 1) for line in lines]
    if all(
        len(fields) == 2 and fields[0].isdecimal() for fields in numbered
    ):  # classInd.txt of UCF101: "1 ApplyEyeMakeup"
        names = {int(number): name for number, name in numbered}
        if sorted(names) in (list(range(len(lines))), list(range(1, len(lines) + 1))):
            return _ordered(names, len(lines))
    return lines


def _ordered(names: dict[int, str], count: int) -> list[str]:
    first = int(0 not in names)
    if sorted(names) != list(range(first, first + count)):
        raise ValueError(f"{count} names must be numbered 0..{count - 1} or 1..{count}, each number once")
    return [names[number] for number in sorted(names)]
