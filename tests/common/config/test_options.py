"""What holds for every group of settings."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from revit.common.config.options import Options


class Numbers(Options):
    rate: float = 1.0
    mean: tuple[float, float] = (0.0, 0.0)


@pytest.mark.parametrize("values", [{"rate": float("inf")}, {"rate": "-inf"}, {"mean": (0.5, float("nan"))}])
def test_numbers_are_finite(values):
    with pytest.raises(ValidationError, match="finite number"):
        Numbers(**values)
