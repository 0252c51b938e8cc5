"""What RUN_DIR/report.json holds, as far as the report reads it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

Percent = Annotated[FiniteFloat, Field(ge=0, le=100)]
Gmacs = Annotated[FiniteFloat, Field(gt=0)]
Amount = Annotated[FiniteFloat, Field(ge=0)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1.0001)]
Count = Annotated[int, Field(ge=0)]


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

    share: dict[str, Share]
    assigner_params: Count | None = None
    assigner_gmacs: Amount | None = None


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
    random: Accuracy | None = None
    oracle: Accuracy | None = None
    cascade: Accuracy | None = None
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
    return {key: value for key, value in content.items() if value is not None}
