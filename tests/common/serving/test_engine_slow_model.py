"""The engine behind a model that is slower than the stream: time spent computing is no time that a view waits for others."""

from __future__ import annotations

import time
from typing import Any

import pytest
from made_engine import PLAIN, made_classifier, pixels_of
from torch import Tensor

from revit.common.serving.engine import Engine
from revit.common.serving.runtime import Runtime


def test_behind_a_slow_model_batches_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[str, int]] = []
    forward = Runtime.forward

    def slow(self: Runtime, inputs: Tensor, grid: Any = None) -> Any:
        sizes.append((grid.name, len(inputs)))
        time.sleep(0.05)  # a few of them take longer than a view may wait for others
        return forward(self, inputs, grid)

    with Engine(made_classifier(), max_batch=2, max_wait_seconds=0.2, **PLAIN) as engine:
        monkeypatch.setattr(Runtime, "forward", slow)
        assert len(list(engine.predict(pixels_of(str(number)) for number in range(80)))) == 80
        limits = {grid.name: limit for grid, limit in zip(engine.networks.grids, engine._limits)}
    assert sum(count for _, count in sizes) == 80
    assert all(count == limits[name] for name, count in sizes[:-3])
