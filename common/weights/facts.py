"""What was written beside weights, by people and by other programs, taken only where it can be true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, PositiveInt, TypeAdapter, ValidationError

from revit.common.models.grid import TokenGrid


def _each_channel(value: Any) -> Any:
    """One number stands for all three channels, as it does where it is subtracted."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [*values] * 3 if len(values) == 1 else values


Positive = Annotated[FiniteFloat, Field(gt=0)]
Share = Annotated[FiniteFloat, Field(gt=0, le=1)]
Mean = Annotated[tuple[FiniteFloat, FiniteFloat, FiniteFloat], BeforeValidator(_each_channel)]
Std = Annotated[tuple[Positive, Positive, Positive], BeforeValidator(_each_channel)]

KINDS: dict[str, TypeAdapter[Any]] = {
    "num_heads": TypeAdapter(PositiveInt),
    "skip_lam": TypeAdapter(Positive),
    "layer_norm_eps": TypeAdapter(Positive),
    "attention": TypeAdapter(str),
    "position_grid": TypeAdapter(Annotated[TokenGrid, BeforeValidator(TokenGrid.parse)]),
    "num_frames": TypeAdapter(PositiveInt),
    "sampling_rate": TypeAdapter(Annotated[FiniteFloat, Field(gt=0, le=1e5)]),
    "img_size": TypeAdapter(PositiveInt | tuple[PositiveInt, PositiveInt]),
    "mean": TypeAdapter(Mean),
    "std": TypeAdapter(Std),
    "crop_pct": TypeAdapter(Share),
    "crop_mode": TypeAdapter(Literal["center", "squash", "border"]),
    "interpolation": TypeAdapter(Literal["nearest", "bilinear", "bicubic", "lanczos"]),
}
"""What each of `Source.facts` has to be."""


def believable(written: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The facts that can be true, each of its kind, and a note on every other one."""
    facts, notes = {}, []
    for key, value in written.items():
        if key not in KINDS:  # of a newer version, or nonsense
            notes.append(f"its {key} is not known here and was not used")
            continue
        try:
            facts[key] = KINDS[key].validate_python(value)
        except ValidationError:
            notes.append(f"its {key} is written as {_short(value)}, which cannot be; it was not used")
    return facts, tuple(notes)


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
