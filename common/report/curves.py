"""How a run trained, from RUN_DIR/log.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_POINTS = 400
"""Of a curve; of longer ones every so many are drawn."""
Curve = list[tuple[float, float]]
"""Points (x, y), x rising."""


@dataclass
class Training:
    """One network's training."""

    loss: dict[str, Curve] = field(default_factory=dict)
    """By name (a grid's, or the assigner), over updates."""
    learning_rate: Curve = field(default_factory=list)
    """Over updates."""
    top1: dict[str, Curve] = field(default_factory=dict)
    """Percent on the val list by grid, over epochs."""


def read_training(log: Path) -> dict[str, Training]:
    """Stage -> its curves, for the stages that the log knows; empty without a log.

    Lines that are torn, or that no run writes, are passed over. Of an update that was logged twice, as an interrupted run
    does that goes on from an earlier state, the later line counts.
    """
    points: dict[tuple[str, str, str], dict[float, float]] = {}
    for line in _lines(log):
        stage = line.get("stage", "model")
        if not isinstance(stage, str):
            continue
        if line.get("event") == "train":
            numbers = {("loss", name): value for name, value in _named(line.get("loss"))}
            numbers["lr", ""] = line.get("lr")
            at = line.get("update")
        elif line.get("event") == "val":
            numbers = {("top1", name): value for name, value in _named(line.get("top1"))}
            at = line.get("epoch")
        else:
            continue
        if at is not None and _is_number(at):
            for (what, name), value in numbers.items():
                if _is_number(value):
                    points.setdefault((stage, what, name), {})[float(at)] = float(value)
    found: dict[str, Training] = {}
    for (stage, what, name), values in points.items():
        training = found.setdefault(stage, Training())
        curve = _thinned(sorted(values.items()))
        if what == "lr":
            training.learning_rate = curve
        else:
            getattr(training, what)[name] = curve
    return found


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    continue
                if isinstance(line, dict):
                    yield line
    except OSError:
        return


def _named(values: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        yield from values.items()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _thinned(curve: Curve) -> Curve:
    """At most about MOST_POINTS of them, the last one included."""
    step = -(-len(curve) // MOST_POINTS)
    return curve if step <= 1 else [*curve[:-1:step], curve[-1]]
