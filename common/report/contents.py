"""What RUN_DIR/report.json holds, as far as the report reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

BASELINES = ("adaptive", "random", "oracle", "cascade")
"""Ways to choose a length for every input; no grid is called so."""

Percent = Annotated[FiniteFloat, Field(ge=0, le=100)]
Gmacs = Annotated[FiniteFloat, Field(gt=0)]
Amount = Annotated[FiniteFloat, Field(ge=0)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1.0001)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Shares = dict[str, Share]


class _Part(BaseModel):
    """A part of the file. Text is no number; what the report does not read may be there."""

    model_config = ConfigDict(strict=True, extra="allow")


class Accuracy(_Part):
    """What one way to choose the token length costs and answers."""

    top1: Percent
    gmacs: Gmacs
    params: Count | None = None
    top5: Percent | None = None
    per_second: Amount | None = None


class AtGrid(Accuracy):
    """All samples at one token length."""

    grid: str


class Assigned(Accuracy):
    """The assigner's choice."""

    share: Shares
    assigner_params: Count | None = None
    assigner_gmacs: Amount | None = None


class Baseline(Accuracy):
    """Another way to choose lengths; older runs did not write the shares."""

    share: Shares | None = None


class SpeedRow(_Part):
    """How fast one token length, or the assigner's mixture, was answered in batches of one size."""

    grid: str
    batch: Annotated[int, Field(ge=1)]
    per_second: Annotated[FiniteFloat, Field(gt=0)]
    ms_p50: Amount
    ms_p95: Amount
    peak_memory_mb: Amount


class Speed(_Part):
    """What was measured after the evaluation."""

    device: str
    dtype: str
    rows: list[SpeedRow] = Field(min_length=1)
    inputs: str = "inputs"
    calls: Count | None = None


class Samples(_Part):
    """How many were answered, and how many could not be read."""

    evaluated: Count
    failed: Count


class Failed(_Part):
    """A sample that could not be read."""

    path: str
    reason: str


class Contents(_Part):
    """The whole file."""

    fixed: list[AtGrid] = Field(min_length=1)
    samples: Samples
    method: str | None = None
    model: str | None = None
    adaptive: Assigned | None = None
    random: Baseline | None = None
    oracle: Baseline | None = None
    cascade: Baseline | None = None
    speed: Speed | None = None
    budget: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    verdict: str | None = None
    failures: list[Failed] = []
    protocol: dict[str, Any] = {}
    seconds: dict[str, Amount] = {}
    versions: dict[str, str] = {}


def check_contents(content: object) -> dict[str, Any]:
    """`content` without what is null. ValueError naming the place of the first thing in it that no run writes."""
    try:
        Contents.model_validate(content)
    except ValidationError as error:
        first, more = error.errors()[0], error.error_count() - 1
        place = ".".join(map(str, first["loc"]))
        rest = f", and {more} more" if more else ""
        raise ValueError(
            f"{place}: {first['msg']}{rest}" if place else "no mapping of keys to values"
        ) from None
    assert isinstance(content, dict)
    for place, value in _leaves(content):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{place}: {value} is no number that a run writes")
    found = {key: value for key, value in content.items() if value is not None}
    _check_grids(found)
    return found


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Place ("cascade.curve.0.top1") and value of all that holds nothing else."""
    if not isinstance(value, dict | list):
        yield place, value
        return
    for key, one in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(one, f"{place}.{key}" if place else str(key))


def _check_grids(content: Mapping[str, Any]) -> None:
    """ValueError for token lengths that come twice, are called like a baseline, or get a share without being there."""
    grids = [row["grid"] for row in content["fixed"]]
    for number, grid in enumerate(grids):
        if not grid or grid in BASELINES or grid in grids[:number]:
            raise ValueError(f"fixed.{number}.grid: {grid!r} is no token length of its own")
    for name in BASELINES:
        for grid in content.get(name, {}).get("share") or {}:
            if grid not in grids:
                raise ValueError(f"{name}.share: {grid!r} is none of the token lengths, {', '.join(grids)}")
