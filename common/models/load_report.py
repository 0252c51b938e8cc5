"""An account of every tensor when weights were put into a model. Silence is an error."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from revit.common.system.errors import UserError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """A tensor that did not fit as it was: its name, shape before and after, and the rule that made it fit."""

    name: str
    before: Shape
    after: Shape
    how: str

    def __str__(self) -> str:
        shapes = " -> ".join("x".join(map(str, shape)) or "scalar" for shape in (self.before, self.after))
        return f"{self.name} {shapes} ({self.how})"


@dataclass
class LoadReport:
    """One entry for every tensor of the source and of the model.

    `missing` (the model's, found nowhere), `unexpected` (the source's, with no place) and `misfits` (shapes that no
    rule joins) are faults: `check` makes an error of them. Everything else says what was done.
    """

    source: str
    """Origin of the weights, in words."""
    loaded: list[str] = field(default_factory=list)
    resized: list[Change] = field(default_factory=list)
    derived: dict[str, list[str]] = field(default_factory=dict)
    """Rule -> the model's names that were made by it from other tensors of the source."""
    remade: list[str] = field(default_factory=list)
    """Sentences about parts that start anew, such as a head with another class count."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> the source's names that were knowingly not used."""
    misfits: list[Change] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    label_names: tuple[str, ...] = ()
    """Class names that go with the loaded head; empty where the head is new or the source names none."""

    def derive(self, how: str, names: Iterable[str]) -> None:
        """Add names to the group `how`; nothing where there are none."""
        if names := list(names):
            self.derived.setdefault(how, []).extend(names)

    def leave_out(self, why: str, names: Iterable[str]) -> None:
        """Add names to the group `why`; nothing where there are none."""
        if names := list(names):
            self.left_out.setdefault(why, []).extend(names)

    def check(self) -> None:
        """Raise UserError naming everything missing, unexpected or of a wrong shape."""
        faults = [
            f"{len(names)} {what}: {shorten(names)}"
            for what, names in (
                ("that the model needs are missing", self.missing),
                ("have no place in the model", self.unexpected),
                ("have a shape that does not fit", [str(change) for change in self.misfits]),
            )
            if names
        ]
        if faults:
            lines = "\n".join(f"  {fault}" for fault in faults)
            raise UserError(
                f"{self.source}: these weights are not for this model; of its tensors\n{lines}\n"
                "  choose weights of the same architecture, or set the model's width, depth, attention and patch embedding to theirs"
            )

    def __str__(self) -> str:
        """Write a few lines for people: counts, and names where they matter."""
        lines = [f"weights from {self.source}", f"  loaded    {_tensors(len(self.loaded))}"]
        lines += [f"  resized   {change}" for change in self.resized]
        lines += [f"  derived   {_tensors(len(names))}: {how}" for how, names in self.derived.items()]
        lines += [f"  re-made   {text}" for text in self.remade]
        lines += [f"  left out  {why}: {shorten(names)}" for why, names in self.left_out.items()]
        lines += [f"  misfit    {change}" for change in self.misfits]
        if self.missing:
            lines.append(f"  missing   {_tensors(len(self.missing))}: {shorten(self.missing)}")
        if self.unexpected:
            lines.append(f"  unexpected {_tensors(len(self.unexpected))}: {shorten(self.unexpected)}")
        lines += [f"  note      {text}" for text in self.notes]
        return "\n".join(lines)


def shorten(names: Sequence[str], limit: int = 12) -> str:
    """Write names in one line: those of numbered blocks joined as `blocks.*.norm1.weight (12)`, then cut at `limit`."""
    counts = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names)
    shown = []
    for name in names:
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
        count = counts.pop(pattern, 0)
        if count:
            shown.append(f"{pattern} ({count})" if count > 1 else name)
    rest = len(shown) - limit
    return ", ".join(shown[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _tensors(count: int) -> str:
    return f"{count} tensor" + ("" if count == 1 else "s")
