"""The base of every configuration model: frozen, typed, finite, and closed to unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

FORMER_NAMES = {"engine": "parallel"}
"""Top-level sections by the name that they had in version 0.1, which is still read."""


class Options(BaseModel):
    """A group of settings filled from YAML. Unknown keys, wrong types and numbers that are not finite are errors; values
    cannot be changed. The docstring below a field is its meaning in lists of keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=False, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def members(cls, field: str) -> Mapping[str, type[Options]]:
        """Return the class of every value of a mapping whose keys are known, such as `methods`. None for other fields."""
        return {}


def with_present_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration with its sections called as they are now."""
    return {
        FORMER_NAMES.get(name, name) if FORMER_NAMES.get(name) not in values else name: value
        for name, value in values.items()
    }
