"""Speed is measured for what was asked, in the promised columns; no test looks at the time itself."""

from __future__ import annotations

import copy

import pytest
import torch

from revit.common.methods.revit.adaptive import TokenLengthAssigner
from revit.common.timing.cases import model_cases, noise, peer_cases
from revit.common.timing.clock import SIDES
from revit.common.timing.measure import measure, round_ratios
from revit.common.timing.memory import peak_bytes
from revit.video.models.timesformer import TimeSformer

CPU = torch.device("cpu")
SHAPE = (1, 3, 2, 32, 32)


@pytest.fixture(autouse=True)
def small_yardstick(monkeypatch):
    monkeypatch.setitem(SIDES, "cpu", 64)


@pytest.fixture
def model():
    return TimeSformer(32, (4, 2), num_frames=2, embed_dim=16, depth=1, num_heads=2, num_classes=5)


def test_a_row_for_every_grid_dtype_and_batch(model):
    assigner = TokenLengthAssigner(2, size=32)
    cases = list(model_cases("tiny", model, assigner, SHAPE, CPU, ["float32", "bfloat16"], [1, 3]))
    rows = measure(cases, CPU, num_rounds=2, min_round_seconds=0.0)
    found = [(row["grid"], row["dtype"], row["batch"]) for row in rows]
    assert sorted(found) == sorted(
        (grid, dtype, batch)
        for grid in ("4x4", "2x2", "adaptive")
        for dtype in ("float32", "bfloat16")
        for batch in (1, 3)
    )
    for row in rows:
        assert list(row) == [
            *("name", "config", "grid", "dtype", "compiled", "batch", "device"),
            *("per_second", "ms_p50", "ms_p95", "peak_memory_mb", "fraction_of_peak"),
            *("gmacs", "rounds", "spread", "round_ms", "threads", "instructions", "versions"),
        ]
        assert row["device"].startswith("cpu (")
        assert row["rounds"] == 2
        low, high = min(row["round_ms"]), max(row["round_ms"])
        assert len(row["round_ms"]) == 2
        assert row["spread"] == pytest.approx((high - low) / row["ms_p50"])
        assert low <= row["ms_p50"] <= high
        assert 0 < row["ms_p50"] <= row["ms_p95"]
        assert row["per_second"] == pytest.approx(1000 * row["batch"] / row["ms_p50"])
        assert row["fraction_of_peak"] > 0
        assert row["peak_memory_mb"] > 0


def test_rows_are_compared_round_by_round(model):
    one, two = measure(list(model_cases("tiny", model, None, SHAPE, CPU, ["float32"], [1, 4]))[::2], CPU, 1)
    one["round_ms"], two["round_ms"] = [2.0, 6.0, 5.0], [4.0, 8.0, 10.0]
    assert (one["batch"], two["batch"]) == (1, 4)
    assert round_ratios(one, two) == [2.0, 3.0, 2.0]


def test_the_adaptive_case_gives_every_length_its_share(model, monkeypatch):
    assigner = TokenLengthAssigner(2, size=32)
    cases = {case.grid: case for case in model_cases("tiny", model, assigner, SHAPE, CPU, ["float32"], [3])}
    case = cases["adaptive"]
    seen = dict.fromkeys(model.grids, 0)
    forward = TimeSformer.forward

    def counted(self, clips, grid=None):
        seen[grid] += len(clips)
        return forward(self, clips, grid)

    monkeypatch.setattr(TimeSformer, "forward", counted)
    case.run()
    assert set(seen.values()) == {3}
    assert case.num_calls == 2


def test_a_peer_runs_with_our_weights(model, monkeypatch):
    class Twin(torch.nn.Module):
        def __init__(self, ours):
            super().__init__()
            self.ours = copy.deepcopy(ours)

        def forward(self, clips):
            return self.ours(clips).prediction

    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)
    cases = list(peer_cases("peer", Twin, "tiny", model, SHAPE, CPU, ["bfloat16"], [2], (False, True)))
    assert [(case.name, case.grid, case.batch, case.dtype, case.compiled) for case in cases] == [
        ("peer", "4x4", 2, "float32", False),  # its defaults
        ("peer", "4x4", 2, "bfloat16", False),
        ("peer", "4x4", 2, "bfloat16", True),
    ]
    assert all(case.run().shape == (2, model.num_classes) for case in cases)


def test_noise_is_always_the_same():
    torch.testing.assert_close(noise(SHAPE, 2, CPU, "float32"), noise(SHAPE, 2, CPU, "float32"))


def test_peak_memory_sees_what_was_freed_again():
    size = 64 * 1024**2
    left_free = [torch.ones(25_000) for _ in range(1000)]  # small enough for the heap
    last = left_free.pop()  # noqa: F841  # keeps those below it from going back by themselves
    del left_free
    # The best of several: a busy system may take pages from a process while it is measured.
    assert max(peak_bytes(lambda: torch.ones(size // 4).sum(), CPU) for _ in range(5)) > size // 2
