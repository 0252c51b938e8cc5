"""Class names: the file that lists them, and the number of a label."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Mapping, Sequence

from revit.common.system.errors import UserError

LOG = logging.getLogger("revit.data")

HEADERS = frozenset(("name", "names", "class", "classes", "class_name", "class_names", "label", "labels", "label_name"))
"""What a column of names may be headed by."""
NUMBER_BEFORE = re.compile(r"c?(\d+)[\s,;]+(\S.*)")
"""`1 ApplyEyeMakeup` (UCF101), `c000 Holding some clothes` (Charades)."""
NUMBER_BEHIND = re.compile(r"(.*\S)[\s,;]+(\d+)")


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
    """Return class names in order of their numbers, from a list or map (`.json`, Diving48's lists of words included), rows of number
    and name in either order, or names alone (`.csv`, `.tsv`, any separator, with or without a header), or one name per line,
    with its number before or behind it or without.

    UserError if the file cannot be read or its numbers are not 0, 1, 2, ... or 1, 2, ..., each once.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
        if path.endswith(".json"):
            names = _from_json(json.loads(text))
        elif path.endswith((".csv", ".tsv")):
            names = _from_table(path, text)
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
    if isinstance(content, list) and all(_are_words(name) for name in content):
        return [" ".join(name) for name in content]
    if isinstance(content, dict) and all(isinstance(value, (int, str)) for value in content.values()):
        by_name = all(isinstance(number, int) for number in content.values())
        if by_name or not all(map(str.isdecimal, content)):  # Something-Something's labels.json: {"Approaching": "0"}
            return _ordered([(int(number), name) for name, number in content.items()])
        return _ordered([(int(number), str(name)) for number, name in content.items()])
    raise ValueError("expected a list of names, or a map between names and numbers")


def _are_words(name: object) -> bool:
    return isinstance(name, list) and bool(name) and all(isinstance(word, str) for word in name)


def _from_table(path: str, text: str) -> list[str]:
    tables = [list(csv.reader(text.splitlines(), delimiter=separator, skipinitialspace=True)) for separator in ",;\t|"]
    tables = [[[cell.strip() for cell in row] for row in rows if any(map(str.strip, row))] for rows in tables]
    for cells in tables:
        for number_at in (0, 1):
            for body in (cells, cells[1:]):  # the first row may be a header
                if body and all(len(row) >= 2 and row[number_at].isdecimal() for row in body):
                    return _ordered([(int(row[number_at]), row[1 - number_at]) for row in body])
    cells = tables[0]
    if not all(len(row) == 1 for row in cells):
        raise ValueError("expected rows `number,name`, `name,number` or `name`")
    names = [row[0] for row in cells]
    if names and names[0].lower() in HEADERS:
        LOG.warning("%s: its first row, %r, is taken for a header and is no class", path, names[0])
        return names[1:]
    return names


def _from_lines(lines: list[str]) -> list[str]:
    before = [NUMBER_BEFORE.fullmatch(line) for line in lines]
    if lines and all(before):
        try:
            return _ordered([(int(found[1]), found[2]) for found in before if found])
        except ValueError as error:
            raise ValueError(f"{error}; where the numbers belong to the names write them as a JSON list") from None
    behind = [NUMBER_BEHIND.fullmatch(line) for line in lines]
    numbered = [(int(found[2]), found[1]) for found in behind if found]
    if len(numbered) == len(lines) and len({name for _, name in numbered}) == len(lines) and _has_no_gap(numbered):
        return _ordered(numbered)
    return lines


def _has_no_gap(numbered: list[tuple[int, str]]) -> bool:
    first = int(all(number for number, _ in numbered))
    return sorted(number for number, _ in numbered) == list(range(first, first + len(numbered)))


def _ordered(numbered: list[tuple[int, str]]) -> list[str]:
    """Return the names by their numbers, from 0 or from 1 on, each number once. ValueError if they are not so."""
    if not _has_no_gap(numbered):
        count = len(numbered)
        raise ValueError(f"{count} names must be numbered 0..{count - 1} or 1..{count}, each number once")
    return [name for _, name in sorted(numbered)]
