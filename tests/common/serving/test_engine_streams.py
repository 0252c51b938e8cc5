"""Streams that pause, break, end early, run side by side or hold what is no input: every input has one answer all the same."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_engine import PLAIN, SHAPE, ByBrightness, Made, made_classifier, pixels_of

from revit.common.modality.modality import Classifier
from revit.common.serving import engine as engine_module
from revit.common.serving.answer import Answer
from revit.common.serving.engine import Engine
from revit.common.serving.plan import Plan
from revit.common.system.errors import UserError


def quick() -> Classifier:
    return made_classifier(ByBrightness())


PATHS = [str(number) for number in range(20)]


def said(answers: list[Answer] | Iterator[Answer]) -> list[tuple[Any, ...]]:
    """What does not depend on the clock; probabilities to five digits, as batches of other sizes round otherwise."""
    return [
        (
            one.path,
            one.error,
            one.grids,
            tuple((guess.number, round(guess.probability, 5)) for guess in one.guesses[:1]),
        )
        for one in answers
    ]


def test_a_stream_that_breaks_answers_what_came_before_and_the_engine_goes_on() -> None:
    def broken() -> Iterator[str]:
        yield from PATHS[:9]
        raise LookupError("the list ends here")

    Made.open_now = 0
    with Engine(quick(), max_batch=4, max_wait_seconds=1e12, num_readers=2, **PLAIN) as engine:
        whole = said(engine.predict(PATHS))
        answers: list[Answer] = []
        with pytest.raises(LookupError, match="the list ends here"):
            answers.extend(engine.predict(broken()))  # keeps what came before it broke
        assert said(answers) == whole[:9]
        assert Made.open_now == 1  # of the engine's own reader
        assert said(engine.predict(PATHS)) == whole
        with pytest.raises(TypeError, match="not iterable"):
            next(engine.predict(3))  # type: ignore[arg-type]
        assert said(engine.predict(PATHS[:2])) == whole[:2]
    assert Made.open_now == 0


def test_a_stream_of_nothing_and_inputs_that_come_twice() -> None:
    with Engine(quick(), max_batch=1, **PLAIN) as engine:
        assert list(engine.predict([])) == []
        assert list(engine.predict(iter(()))) == []
        answers = said(engine.predict(["1", "3", "1", "1", "3"]))
    assert answers[0] == answers[2] == answers[3]
    assert answers[1] == answers[4]
    assert answers[1][1] == "it is broken"


def test_one_input_in_the_place_of_a_list() -> None:
    with Engine(quick(), **PLAIN) as engine:
        expected = said([engine("12")])
        assert said(engine.predict("12")) == expected
        assert said(engine.predict(Path("12"))) == expected
        assert said(engine.predict([Path("12")])) == expected
        assert said([engine(Path("12"))]) == expected
        (answer,) = engine.predict(pixels_of("12"))
    assert answer.grids == expected[0][2]


def test_what_is_no_input_is_told_in_its_place() -> None:
    nothing = torch.zeros(0, *SHAPE, dtype=torch.uint8)
    some = torch.ones(1, *SHAPE, dtype=torch.uint8)
    stream: list[Any] = [nothing, torch.tensor(3, dtype=torch.uint8), None, np.zeros(2), b"1"]
    stream += [some.to_sparse(), some.to("meta"), "1"]
    with Engine(quick(), num_readers=1, **PLAIN) as engine:
        answers = list(engine.predict(stream))
        alone = [engine(item) for item in stream]
    errors = [answer.error or "" for answer in answers]
    assert "(0, 3, 2, 16, 16); the model wants uint8" in errors[0]
    assert "uint8 (); the model wants" in errors[1]
    kinds = ("NoneType", "ndarray", "bytes")
    assert errors[2:5] == [f"it is a {kind}; give the path of a file, or pixels as a tensor" for kind in kinds]
    assert [error.split(";")[0] for error in errors[5:7]] == [
        f"its pixels are a {kind} tensor" for kind in ("sparse", "meta")
    ]
    assert not errors[7]
    assert said(alone) == said(answers)


@pytest.mark.parametrize(
    ("views", "settings"), [("3", {"max_batch": 1, "memory_mb": 0}), ("1", {"max_batch": 3, "num_readers": 3})]
)
def test_two_engines_at_once_do_not_disturb_each_other(views: str, settings: dict[str, Any]) -> None:
    one = Engine(quick(), views=views, **settings, **PLAIN)
    two = Engine(quick(), views=views, grid="2", **settings, **PLAIN)
    with one, two:
        expected = said(one.predict(PATHS)), said(two.predict(PATHS))
        assert expected[0] != expected[1]
        pairs = list(zip(one.predict(PATHS), two.predict(PATHS)))
        assert (said([pair[0] for pair in pairs]), said([pair[1] for pair in pairs])) == expected
        with ThreadPoolExecutor(2) as threads:  # each in a thread of its own
            found = threads.map(lambda engine: said(engine.predict(PATHS)), (one, two))
            assert tuple(found) == expected
        # One engine, two streams.
        again = zip(one.predict(PATHS), one.predict(PATHS))
        assert all(said([first]) == said([second]) for first, second in again)


def test_a_few_inputs_do_not_wait_for_a_full_group_of_the_assigner() -> None:
    gate = threading.Event()

    def pausing() -> Iterator[str]:
        yield from PATHS[:3]
        gate.wait(20)
        yield from PATHS[3:]

    with Engine(quick(), max_batch=8, max_wait_seconds=0.01, **PLAIN) as engine:
        expected = said(engine.predict(PATHS))
        answers = engine.predict(pausing())
        first = [next(answers) for _ in range(3)]  # while the stream still waits
        gate.set()
        assert said([*first, *answers]) == expected


def test_how_long_the_next_input_may_take() -> None:
    class Waiting:
        def __init__(self, left: float | None) -> None:
            self.left = left

        def seconds_left(self) -> float | None:
            return self.left

    with Engine(quick(), max_wait_seconds=0.5, **PLAIN) as engine:
        found = [
            engine._patience(Waiting(left), fresh)  # type: ignore[arg-type]
            for left in (None, 0.2, 3.0)
            for fresh in (False, True)
        ]
    assert found == [None, 0.0, 0.2, 0.0, 3.0, 0.0]


def test_a_stream_left_early_closes_its_readers_and_its_generator_s_answers_end() -> None:
    Made.open_now = 0
    with Engine(quick(), num_readers=3, **PLAIN) as engine:
        for taken in (1, 5):
            stream = engine.predict(str(number) for number in itertools.count())
            for _ in range(taken):
                next(stream)
            assert Made.open_now == 4
            stream.close()  # type: ignore[attr-defined]
            assert Made.open_now == 1
            assert list(stream) == []
    assert Made.open_now == 0


def test_a_failure_of_the_model_ends_the_stream_and_not_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    Made.open_now = 0
    with Engine(quick(), **PLAIN) as engine:
        expected = said(engine.predict(PATHS))
        with monkeypatch.context() as patch:

            def fails(*_: Any) -> Any:
                raise ArithmeticError("a fault of the device")

            patch.setattr(engine.networks.model, "forward", fails)
            with pytest.raises(ArithmeticError):
                list(engine.predict(PATHS))
            assert Made.open_now == 1
        assert said(engine.predict(PATHS)) == expected


def test_int8_is_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "pick_device", lambda name: torch.device("cuda"))
    with pytest.raises(UserError, match="dtype int8 is for CPUs, not for cuda; choose bfloat16"):
        Engine(quick(), dtype="int8")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "fp16"}, "dtype fp16: write auto or one of float32"),
        ({"compile": "yes"}, "compile yes: write one of auto, eager, compile"),
        ({"max_batch": 0}, "max_batch 0: at least 1"),
        ({"num_readers": -1}, "num_readers -1: at least 1"),
        ({"max_wait_seconds": float("nan")}, "max_wait_seconds nan"),
        ({"topk": 0}, "topk 0: name at least 1 class"),
        ({"memory_mb": -3}, "memory_mb -3: at least 0"),
        ({"num_inputs": -1}, "num_inputs -1: at least 0"),
        ({"grid": "2x2", "budget": "drop:1"}, "grid 2x2 and budget drop:1 both say"),
        ({"budget": 5}, "no budget curve"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Engine(quick(), **PLAIN | settings)


def test_the_plan_is_asked_for_what_is_known_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def noted(*arguments: Any) -> Plan:
        asked.append(arguments[2:])
        return Plan("float32", False, 2)

    monkeypatch.setattr(engine_module, "choose_plan", noted)
    cpu = torch.device("cpu")
    named: dict[str, Any] = {"dtype": "bfloat16", "compile": "compile", "max_batch": 3, "num_inputs": 5000}
    for settings in ({}, named):
        Engine(quick(), device="cpu", **settings).close()
    assert asked == [(cpu, "auto", "auto", None, None), (cpu, "bfloat16", "compile", 3, 5000)]
