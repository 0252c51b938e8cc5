"""The engine: one answer for each input, in order, the model's own, in bounded memory."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from made_engine import PLAIN, SHAPE, ByBrightness, Made, expected_of, made_classifier, pixels_of
from torch import Tensor, nn

from revit.common.serving.answer import Answer
from revit.common.serving.batches import StreamBatches
from revit.common.serving.engine import Engine
from revit.common.system.errors import UserError


@pytest.mark.parametrize("max_batch", [1, 2, 3, 8])
@pytest.mark.parametrize("views", [1, 3])
def test_the_answers_are_those_of_each_input_alone(max_batch: int, views: int) -> None:
    classifier = made_classifier()
    paths = [str(number) for number in range(50)]
    with Engine(classifier, views=str(views), topk=5, max_batch=max_batch, **PLAIN) as engine:
        answers = list(engine.predict(paths))
        single = [engine(path) for path in paths[:8]]
    assert [answer.path for answer in answers] == paths
    used = set()
    for answer in answers:
        if int(answer.path) % 7 == 3:
            assert answer.error == "it is broken"
            continue
        grid_index, probabilities = expected_of(classifier, answer.path, views)
        assert answer.grids == tuple(classifier.networks.grids[index].name for index in grid_index)
        used.update(answer.grids)
        for guess in answer.guesses:
            assert guess.label == classifier.label_names[guess.number]
            assert guess.probability == pytest.approx(float(probabilities[guess.number]), abs=1e-5)
    assert len(used) == 3  # else the lengths were not tested
    for answer, alone in zip(answers, single):
        assert (answer.grids, answer.error) == (alone.grids, alone.error)
        for one, other in zip(answer.guesses, alone.guesses):
            assert one.probability == pytest.approx(other.probability, abs=1e-5)


def test_inputs_of_one_length_run_together_though_others_came_between(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[int, int]] = []
    run = StreamBatches._run

    def noted(self: StreamBatches, length: int, views: list[Any]) -> None:
        ran.append((length, len(views)))
        run(self, length, views)

    monkeypatch.setattr(StreamBatches, "_run", noted)
    paths = [str(number) for number in range(700) if number % 7 != 3]
    with Engine(made_classifier(ByBrightness()), max_batch=4, max_wait_seconds=1e9, memory_mb=4000, **PLAIN) as engine:
        limits = engine._limits
        assert limits == [4, 16, 64]
        assert sum(answer.error is None for answer in engine.predict(paths)) == 600
    assert sum(count for _, count in ran) == 600
    full = [count == limits[length] for length, count in ran]
    assert sum(full) > 0.8 * len(full)


def test_ten_thousand_inputs_in_bounded_memory() -> None:
    Made.most = Made.alive = 0
    with Engine(made_classifier(ByBrightness()), max_batch=8, num_readers=2, **PLAIN) as engine:
        count = failed = 0
        for number, answer in enumerate(engine.predict(str(number) for number in range(10_000))):
            assert answer.path == str(number)
            assert (answer.error is not None) == (number % 7 == 3)
            count += 1
            failed += answer.error is not None
        room = engine._room(pixels_of("0"))
    gc.collect()
    assert count == 10_000
    assert failed == len(range(3, 10_000, 7))
    assert Made.most <= room + 2
    assert Made.alive <= 1  # the last one may hang in this loop


def test_little_memory_means_few_inputs_under_way() -> None:
    Made.most = Made.alive = 0
    classifier = made_classifier()
    with Engine(classifier, max_batch=64, num_readers=1, memory_mb=0, **PLAIN) as engine:
        answers = list(engine.predict(map(str, range(40))))
    assert [answer.path for answer in answers] == [str(number) for number in range(40)]
    assert Made.most <= 3


def test_pixels_and_answers_in_a_stream_of_paths() -> None:
    classifier = made_classifier()
    ready = Answer("folder", error="nothing in it")
    wrong = torch.zeros(1, 3, 2, 8, 8, dtype=torch.uint8)
    stream = ["1", pixels_of("2"), ready, wrong, torch.zeros(1, *SHAPE), "3"]
    with Engine(classifier, **PLAIN) as engine:
        answers = list(engine.predict(stream))
        again = engine(pixels_of("2"))
    assert [answer.path for answer in answers] == ["1", "", "folder", "", "", "3"]
    assert answers[2] is ready
    assert answers[1].guesses[0].probability == pytest.approx(float(expected_of(classifier, "2")[1].max()), abs=1e-5)
    assert answers[1].guesses == again.guesses
    assert "the model wants uint8 V x 3 x 2 x 16 x 16" in str(answers[3].error)
    assert "float32" in str(answers[4].error)


def test_an_answer_does_not_wait_for_a_stream_that_pauses() -> None:
    gate = threading.Event()

    def pausing() -> Iterator[str]:
        yield "1"
        gate.wait(20)
        yield "2"

    with Engine(made_classifier(), max_batch=8, max_wait_seconds=0.01, **PLAIN) as engine:
        answers = engine.predict(pausing())
        assert next(answers).path == "1"  # while the stream still waits
        gate.set()
        assert next(answers).path == "2"
        assert list(answers) == []


def test_a_stream_left_in_the_middle_ends_its_threads() -> None:
    before = threading.active_count()
    with Engine(made_classifier(), num_readers=3, **PLAIN) as engine:
        stream = engine.predict(str(number) for number in itertools.count())
        assert next(stream).path == "0"
        stream.close()
    # The thread that walks the stream ends at its next step.
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.name.startswith("Thread-"):
            thread.join(5)
    assert threading.active_count() <= before


def test_a_batch_that_does_not_fit_is_halved_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = made_classifier()
    paths = [str(number) for number in range(40)]
    with Engine(classifier, max_batch=8, **PLAIN) as engine:
        expected = [(answer.grids, answer.error) for answer in engine.predict(paths)]
        forward = engine.networks.model.forward
        sizes: list[int] = []

        def small_device(inputs: Tensor, grid: Any = None) -> Any:
            sizes.append(len(inputs))
            if len(inputs) > 3:
                raise torch.OutOfMemoryError("of 3")
            return forward(inputs, grid)

        monkeypatch.setattr(engine.networks.model, "forward", small_device)
        assert [(answer.grids, answer.error) for answer in engine.predict(paths)] == expected
        assert max(sizes) > 3

        def no_room(inputs: Tensor, grid: Any = None) -> Any:
            raise MemoryError

        monkeypatch.setattr(engine.networks.model, "forward", no_room)
        answers = list(engine.predict(paths[:5]))
    assert [answer.path for answer in answers] == paths[:5]
    assert [answer.error == "it is broken" for answer in answers] == [False, False, False, True, False]
    assert all("not enough memory" in str(answer.error) for answer in answers if answer.path != "3")


def test_damaged_weights_are_told_input_by_input() -> None:
    classifier = made_classifier()
    nn.init.constant_(classifier.networks.model.head.bias, float("nan"))  # type: ignore[arg-type]
    with Engine(classifier, **PLAIN) as engine:
        (answer,) = engine.predict(["1"])
    assert answer.error == "the model's answer is not a number; its weights are damaged"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": "5x5"}, "the model runs at 4x4, 2x2, 1x1, not at 5x5"),
        ({"grid": "none"}, "grid: "),
        ({"budget": "gmacs:1"}, "calibrate"),
        ({"device": "nowhere"}, "device nowhere"),
    ],
)
def test_mistakes_are_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Engine(made_classifier(), **PLAIN | settings)


def test_a_grid_for_all() -> None:
    with Engine(made_classifier(), grid="2", **PLAIN) as engine:
        assert isinstance(engine, Engine)
        assert {answer.grid for answer in engine.predict(["1", "2", "4"])} == {"2x2"}
