"""Budgets as they are written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast, get_args

Unit = Literal["gmacs", "ms", "drop"]
EXAMPLES = "gmacs:130, ms:40 or drop:0.5"


@dataclass(frozen=True)
class Budget:
    """What inputs may cost in the mean, or what may be lost."""

    unit: Unit
    amount: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Reads `gmacs:130`, `ms:40`, `drop:0.5`. Raises ValueError for anything else."""
        unit, _, number = text.strip().partition(":")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if unit not in get_args(Unit) or not math.isfinite(amount) or amount < 0:
            raise ValueError(f"{text!r} is no budget; write {EXAMPLES}")
        return cls(cast(Unit, unit), amount)

    def __str__(self) -> str:
        return f"{self.unit}:{self.amount:g}"
