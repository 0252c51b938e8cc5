"""Rows of a list, whatever its format: gathered flat, their labels numbered at the end."""

from __future__ import annotations

import logging
import re
from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from revit.common.data.flat import FlatNumbers, GrowingLabels, GrowingStrings
from revit.common.data.formats.base import ListRequest
from revit.common.data.label_names import check_label
from revit.common.data.lists import SampleList, SegmentUnit
from revit.common.system.errors import UserError

LOG = logging.getLogger("revit.data")

SHOWN_PROBLEMS = 5
"""Bad lines that one message names; the others are counted."""
WHOLE = re.compile(r"[+-]?\d+(\.0+)?")
"""A whole number, also with the point that pandas writes."""


class Rows:
    """Rows of a list, gathered flat; `finish` numbers their labels."""

    def __init__(self, request: ListRequest, unit: SegmentUnit | None = None) -> None:
        self.request = request
        self.unit = unit
        self._paths = GrowingStrings()
        self._labels = GrowingLabels[tuple[str, ...]]()
        self._lines = array("q")
        self._segments = array("d")
        self._bad: list[tuple[int, str]] = []

    def append(
        self, path: str, label: str | tuple[str, ...], line: int, segment: tuple[float, float] | None = None
    ) -> None:
        """Add a sample, with one label or those that it has; segment: beginning and end within the file, in `unit`."""
        self._paths.append(path)
        self._labels.append((label,) if isinstance(label, str) else label)
        self._lines.append(line)
        if self.unit is not None:
            self._segments.extend(segment or (0.0, float("inf")))

    def refuse(self, line: int, reason: str) -> None:
        """Note a line that is no sample; `finish` names it."""
        self._bad.append((line, reason))

    def finish(self, read_as: str, names: Sequence[str] | None = None) -> SampleList:
        """Return the list. UserError for refused lines and labels that are no class.

        Labels are class names or whole numbers. Names are numbered as the request's `names`, else `names`, else alphabetically.
        Numbers count from the request's `first_label`; where that is open, from 1 if they are 1, 2, ... without a gap and, where
        there are names, as many.
        """
        request = self.request
        _check_lines(request.source, self._bad)
        if not len(self._paths):
            raise UserError(f"{request.source}: no {request.noun} in it")
        sets, places = self._labels.distinct, self._labels.places
        if all(
            WHOLE.fullmatch(text) for one in sets for text in one
        ):  # 3.0, as pandas writes where a label was missing
            sets = [tuple(text.partition(".")[0] for text in one) for one in sets]
        texts = list(dict.fromkeys(text for one in sets for text in one))
        if not texts:
            raise UserError(f"{request.source}: none of its {request.noun} has a label; give a list with labels")
        every = set(texts)
        joined = None if request.several else next((text for text in texts if _is_joined(text, every)), None)
        if joined is not None:
            LOG.warning(
                "%s: %r is taken for a class of its own; if it is several labels set data.source.several_labels=true",
                request.source,
                joined,
            )
        numeric = [int(text) for text in texts if is_number(text)]
        known = request.names or (tuple(names) if names is not None else None)
        if known is None and not is_number(texts[0]):
            known = tuple(sorted(texts))
        if request.train_labels == "numbers" and known is not None and request.names is None:
            raise UserError(
                f"{request.source}: its labels are names ({texts[0]!r}), those of the training list are numbers; give "
                "data.source.label_names, the names in the order of the numbers"
            )
        said_by_list = names is not None and tuple(names) == known
        if (
            request.train_labels == "names"
            and numeric
            and not said_by_list
            and not set(map(str, numeric)) & set(known or ())
        ):
            LOG.warning(
                "%s: its labels are numbers, those of the training list are names: %d is taken for %r, and so on; "
                "data.source.label_names says it for sure",
                request.source,
                0,
                (known or ("",))[0],
            )
        first = first_number(numeric, known) if request.first_label is None else request.first_label
        number_of = {name: number for number, name in enumerate(known)} if known is not None else None
        numbers, faults = {}, {}
        for label in texts:
            try:
                numbers[label] = check_label(label, number_of, first)
            except ValueError as error:
                faults[label] = str(error)
        wrong = {place: faults[label] for place, one in enumerate(sets) for label in one if label in faults}
        rows = np.flatnonzero(np.isin(places, list(wrong))) if wrong else ()
        _check_lines(request.source, [(self._lines[row], wrong[places[row]]) for row in rows])
        numbered = [tuple(sorted({numbers[label] for label in one})) for one in sets]
        firsts = np.array([one[0] if one else -1 for one in numbered], np.int64)
        counted = f", labels from {first}" if numeric and (first or known is None) else ""
        return SampleList(
            self._paths.flat(),
            firsts[places],
            known,
            request.source,
            root=request.prefix,
            first_label=first,
            segments=np.frombuffer(self._segments, np.float64).reshape(-1, 2) if self.unit is not None else None,
            unit=self.unit or "seconds",
            read_as=read_as + counted,
            label_sets=FlatNumbers.of(numbered[place] for place in places) if request.several else None,
        )


def first_number(numbers: Iterable[int], names: Sequence[str] | None) -> int:
    """Return what labels that are numbers count from: 1 if they are 1, 2, ... and, where there are names, as many; else 0.

    Without a gap, so that some classes of a larger data set keep the numbers that they have there.
    """
    distinct = sorted(set(numbers))
    from_one = bool(distinct) and distinct == list(range(1, len(distinct) + 1))
    return int(from_one and (names is None or len(distinct) == len(names)))


def labels_in(text: str, joined_by: str = ";|") -> tuple[str, ...]:
    """Return the labels of a sample that may have several, joined by any of the signs `joined_by`; none of an empty text."""
    return tuple(dict.fromkeys(label.strip() for label in re.split(f"[{joined_by}]", text) if label.strip()))


def _is_joined(text: str, labels: set[str]) -> bool:
    """Say whether a label looks like several of the others in one."""
    by_bars, by_commas = set(labels_in(text)), set(labels_in(text, ","))
    return (len(by_bars) > 1 and bool(by_bars & labels)) or (len(by_commas) > 1 and by_commas <= labels)


def is_number(label: str) -> bool:
    """Return whether a label is a whole number, of either sign."""
    return label.lstrip("+-").isdecimal()


def _check_lines(source: str, bad: Sequence[tuple[int, str]]) -> None:
    """Raise UserError if there are bad lines, each a line's number and what is wrong with it."""
    if bad:
        shown = "".join(f"\n  line {number}: {text}" for number, text in bad[:SHOWN_PROBLEMS])
        more = f"\n  ... and {len(bad) - SHOWN_PROBLEMS} more" if len(bad) > SHOWN_PROBLEMS else ""
        raise UserError(f"{source}: {len(bad)} bad lines:{shown}{more}")
