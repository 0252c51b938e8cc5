"""The base of every configuration model: frozen, typed, finite, and closed to unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

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


class NotedOptions(Options):
    """Options written down without later keys at their defaults, so that runs from before these were there still compare equal."""

    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialize(self)
        fields = type(self).model_fields
        defaults = {name: fields[name].get_default(call_default_factory=True) for name in self.later}
        return {
            name: value
            for name, value in values.items()
            if name not in defaults or getattr(self, name) != defaults[name]
        }


def with_present_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration with its sections called as they are now."""
    return {
        FORMER_NAMES.get(name, name) if FORMER_NAMES.get(name) not in values else name: value
        for name, value in values.items()
    }
