"""The base of every configuration model: frozen, typed, finite, and closed to unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """A group of settings filled from YAML. Unknown keys, wrong types and numbers that are not finite are errors; values
    cannot be changed."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=False, allow_inf_nan=False, use_attribute_docstrings=True
    )
