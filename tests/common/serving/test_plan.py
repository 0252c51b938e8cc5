"""The plan: from measured times, which are kept, to dtype, batch and compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from revit.common.methods.toe import ToE, ToEOptions
from revit.common.serving import plan as planning
from revit.common.serving.plan import Plan, choose_plan
from revit.common.system.errors import UserError
from revit.video.models.timesformer import TimeSformer

SHAPE = (1, 3, 2, 32, 32)
CPU = torch.device("cpu")


def small(depth: int = 4, embed_dim: int = 32) -> TimeSformer:
    return TimeSformer(
        img_size=32, grids=(4, 2), num_frames=2, num_classes=5, embed_dim=embed_dim, depth=depth, num_heads=2
    ).eval()


class Times:
    """Stands in for the clock: seconds by dtype, batch and compiler, and a count of what was timed."""

    def __init__(self, patch: pytest.MonkeyPatch, compiler: float = 1.0, wide: float = 1.0) -> None:
        self.timed: list[tuple[str, int, bool]] = []
        self.made: list[Any] = []
        times = self

        class Served:
            def __init__(self, model: Any, device: Any, dtype: str, compiled: bool, batch: int) -> None:
                self.what = (dtype, batch, compiled)
                times.made.append(model)

            def __call__(self, inputs: Any) -> float:
                dtype, batch, compiled = self.what
                one = {"float32": 3.0, "bfloat16": 1.0, "int8": 0.5}[dtype]
                return one * batch * (wide if batch > 1 else 1.0) * (compiler if compiled else 1.0)

        def seconds_of(run: Any, device: Any) -> float:
            times.timed.append(run.func.what)
            return run()

        patch.setattr(planning, "Runtime", Served)
        patch.setattr(planning, "seconds_of", seconds_of)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_faster_dtype_and_the_batch_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    Times(monkeypatch, wide=0.8)
    assert choose_plan(small(), SHAPE, CPU) == Plan("bfloat16", False, 4)


def test_a_larger_batch_must_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    Times(monkeypatch, wide=0.99)
    assert choose_plan(small(), SHAPE, CPU) == Plan("bfloat16", False, 1)


def test_what_is_named_is_taken_and_needs_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    assert choose_plan(small(), SHAPE, CPU, "float32", "eager", 3) == Plan("float32", False, 3)
    assert choose_plan(small(), SHAPE, CPU, "int8", "compile", 2) == Plan("int8", True, 2)
    assert times.timed == []


def test_measured_once_for_an_architecture(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    times = Times(monkeypatch)
    first = choose_plan(small(), SHAPE, CPU)
    count = len(times.timed)
    assert choose_plan(small(), SHAPE, CPU) == first  # other weights
    assert len(times.timed) == count
    choose_plan(small(embed_dim=64), SHAPE, CPU)
    assert len(times.timed) == 2 * count
    for file in empty_cache.iterdir():
        file.write_text("{damaged")
    assert choose_plan(small(), SHAPE, CPU) == first
    assert len(times.timed) == 3 * count


def test_only_the_first_blocks_are_timed(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    times = Times(monkeypatch)
    model = small(depth=8)
    choose_plan(model, SHAPE, CPU)
    assert {len(probe.blocks) for probe in times.made} == {2}
    assert len(model.blocks) == 8
    (file,) = empty_cache.iterdir()
    stored = planning._read(file)
    assert stored.milliseconds["float32/1/eager"] == pytest.approx(1000 * 3.0 * 8 / 2)


def test_the_compiler_is_asked_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch, compiler=0.5)
    settings: dict[str, Any] = {"dtype": "bfloat16", "max_batch": 1}
    # 2 s an input. Ten inputs are not worth a trial; a thousand are.
    assert not choose_plan(small(), SHAPE, CPU, **settings, num_inputs=10).compiled
    assert not any(compiled for _, _, compiled in times.timed)
    assert choose_plan(small(), SHAPE, CPU, **settings, num_inputs=1000).compiled
    count = len(times.timed)
    assert choose_plan(small(), SHAPE, CPU, **settings, num_inputs=2000).compiled  # known by now
    assert len(times.timed) == count


def test_a_compiler_that_takes_longer_than_it_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    Times(monkeypatch, compiler=0.5)
    ticks = iter(range(0, 10**6, 400))  # 400 s for a graph of the probe
    monkeypatch.setattr(planning.time, "perf_counter", lambda: next(ticks))
    assert not choose_plan(small(), SHAPE, CPU, dtype="bfloat16", max_batch=1, num_inputs=1000).compiled


def test_a_home_that_cannot_be_written_to_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REVIT_CACHE", str(tmp_path / "file" / "below"))
    Times(monkeypatch)
    assert choose_plan(small(), SHAPE, CPU).dtype == "bfloat16"


@pytest.mark.parametrize("damage", ['"float32/1/eager": NaN', '"float32/1/eager": -1.0', '"float32/1/eager": "x"'])
def test_kept_times_that_no_clock_shows_are_measured_again(
    damage: str, monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    times = Times(monkeypatch)
    first = choose_plan(small(), SHAPE, CPU)
    count = len(times.timed)
    (file,) = empty_cache.iterdir()
    file.write_text(f'{{"milliseconds": {{{damage}, "bfloat16/1/eager": 9.0}}, "compile_seconds": null}}')
    assert choose_plan(small(), SHAPE, CPU) == first
    assert len(times.timed) == 2 * count


def test_times_are_of_one_architecture_and_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {planning._key(small(), SHAPE, CPU), planning._key(small(depth=5), SHAPE, CPU)}
    names.add(planning._key(small(), (1, 3, 4, 32, 32), CPU))
    reduced = small()
    ToE(ToEOptions()).attach(reduced)  # has no weights
    names.add(planning._key(reduced, SHAPE, CPU))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 77)
        names.add(planning._key(small(), SHAPE, CPU))
    assert len(names) == 5
    assert planning._key(small(), SHAPE, CPU) in names


def test_a_folder_in_the_place_of_the_file_and_a_user_without_a_home(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    Times(monkeypatch)
    (empty_cache / f"{planning._key(small(), SHAPE, CPU)}.json").mkdir(parents=True)
    assert choose_plan(small(), SHAPE, CPU).dtype == "bfloat16"

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("REVIT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert planning.cache_folder().name == "revit-video"


@pytest.mark.parametrize(
    ("dtype", "compile", "device"), [("int8", "eager", "cuda"), ("fp16", "eager", "cpu"), ("float32", "fast", "cpu")]
)
def test_what_cannot_be_served_is_refused(dtype: str, compile: Any, device: str) -> None:
    with pytest.raises(UserError, match=r"int8 is for CPUs|write auto or one of|write one of"):
        choose_plan(small(), SHAPE, torch.device(device), dtype, compile, 1)
