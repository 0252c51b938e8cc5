"""The schema of RUN_DIR/report.json, as far as the report reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

BASELINES = ("adaptive", "random", "oracle", "cascade")
"""Ways to choose a grid for every input; no grid is called so."""

Percent = Annotated[FiniteFloat, Field(ge=0, le=100)]
Amount = Annotated[FiniteFloat, Field(ge=0)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Shares = dict[str, Annotated[FiniteFloat, Field(ge=0, le=1.0001)]]


class Section(BaseModel):
    """A section of the file. Text is no number; keys that the report does not read may be there."""

    model_config = ConfigDict(strict=True, extra="allow")


class Policy(Section):
    """Accuracy and cost of one way to choose the token grid; older runs did not write the shares of all."""

    top1: Percent
    gmacs: Positive
    params: Count | None = None
    top5: Percent | None = None
    map: Percent | None = None
    per_second: Amount | None = None
    share: Shares | None = None


class Fixed(Policy):
    """All samples at one token grid."""

    grid: str


class Assigned(Policy):
    """Every input at the grid that the assigner chose."""

    share: Shares
    assigner_params: Count | None = None
    assigner_gmacs: Amount | None = None


class SpeedRow(Section):
    """Speed of one token grid, or of the assigner's mixture, in batches of one size."""

    grid: str
    batch: Annotated[int, Field(ge=1)]
    per_second: Positive
    ms_p50: Amount
    ms_p95: Amount
    peak_memory_mb: Amount


class Speed(Section):
    """Speed as it was measured after the evaluation."""

    device: str
    dtype: str
    rows: list[SpeedRow] = Field(min_length=1)
    inputs: str = "inputs"
    calls: Count | None = None


class Samples(Section):
    """Numbers of samples that were answered, and that could not be read."""

    evaluated: Count
    failed: Count


class Failure(Section):
    """A sample that could not be read."""

    path: str
    reason: str


class DataCheck(Section):
    """Newest data check of a list."""

    source: str
    checked: str
    listed: Count
    files: Count
    good: Count
    kinds: dict[str, Count]
    current: bool


class ReportFile(Section):
    """The whole file."""

    fixed: list[Fixed] = Field(min_length=1)
    samples: Samples
    method: str | None = None
    model: str | None = None
    adaptive: Assigned | None = None
    random: Policy | None = None
    oracle: Policy | None = None
    cascade: Policy | None = None
    speed: Speed | None = None
    budget: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    verdict: str | None = None
    good: bool | None = None
    inputs: str | None = None
    chance: Percent | None = None
    failures: list[Failure] = []
    protocol: dict[str, Any] = {}
    data: dict[str, DataCheck] = {}
    seconds: dict[str, Amount] = {}
    versions: dict[str, str] = {}


def check_content(content: object) -> dict[str, Any]:
    """Return `content` without what is null. ValueError names the place of the first thing in it that no run writes: a value
    that is not finite, a grid that comes twice, is called like a baseline, or has a share but no row."""
    try:
        ReportFile.model_validate(content)
    except ValidationError as error:
        first, more = error.errors()[0], error.error_count() - 1
        place = ".".join(map(str, first["loc"]))
        rest = f", and {more} more" if more else ""
        raise ValueError(f"{place}: {first['msg']}{rest}" if place else "no mapping of keys to values") from None
    assert isinstance(content, dict)
    for place, value in _leaves(content):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{place}: {value} is no number that a run writes")
    present = {key: value for key, value in content.items() if value is not None}
    grids = [row["grid"] for row in present["fixed"]]
    for number, grid in enumerate(grids):
        if not grid or grid in BASELINES or grid in grids[:number]:
            raise ValueError(f"fixed.{number}.grid: {grid!r} is no token length of its own")
    for name in BASELINES:
        for grid in present.get(name, {}).get("share") or {}:
            if grid not in grids:
                raise ValueError(f"{name}.share: {grid!r} is none of the token lengths, {', '.join(grids)}")
    return present


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield place ("cascade.curve.0.top1") and value of all that holds nothing else."""
    if not isinstance(value, dict | list):
        yield place, value
        return
    for key, one in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(one, f"{place}.{key}" if place else str(key))
