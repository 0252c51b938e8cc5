"""The inference engine: a stream of inputs in, one answer for each out, in the same order.

from revit.video import load

with load("runs/demo") as engine:
    for answer in engine.predict(["one.mp4", "two.mp4"]):
        print(answer.path, answer.grid, answer.guesses[0].label)
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from revit.common.data.reader import Reader
from revit.common.drawing.gallery import Gallery
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.revit.budget import BudgetCurve, Choice
from revit.common.modality.classifier import Classifier
from revit.common.models.base import merge_views
from revit.common.models.grid import TokenGrid
from revit.common.serving.answer import Answer, Guess
from revit.common.serving.batches import InFlight, StreamBatches
from revit.common.serving.budgets import achieved, choose, curve_of
from revit.common.serving.inputs import Input, named, opened
from revit.common.serving.options import Serving
from revit.common.serving.plan import choose_plan
from revit.common.serving.reading import EndOfStream, ReadAhead, Reading
from revit.common.serving.runtime import Runtime
from revit.common.serving.transfer import Transfer
from revit.common.system.device import pick_device
from revit.common.system.errors import UserError

ASSIGNED_TOGETHER = 8
"""Inputs that the assigner sees at once, as far as they are there: single ones are mostly launching and waiting."""


class Engine:
    """Answers for files, or for pixels that are in memory already; what cannot be read gets an answer that says why.

    Views of all inputs of a stream that were given the same token length run together, though other inputs came between
    them. A batch runs when it is full, when its oldest view has waited too long, or when there is no room for more inputs.
    Files are read ahead in threads and decoded in processes of their own. Answers come in the order of the inputs, each
    exactly once. Memory is bounded, whatever the length of the stream.

    Any number of threads may use one engine. They read side by side, as many files as there are readers, and compute in turn.

    Close it (or use it as a context) to end what it holds open.
    """

    def __init__(
        self,
        classifier: Classifier,
        serving: Serving | None = None,
        *,
        views: str = "1",
        grid: TokenGrid | None = None,
        topk: int = 5,
        budget: str | None = None,
        gallery: Gallery | None = None,
    ) -> None:
        """views: as on the command line, see `Inputs.open`. grid: for all inputs, instead of the assigner's. gallery: takes a
        drawing of every input answered. budget: what a view may cost in the mean, as on the command line; None takes the
        checkpoint's own, if it has one and no grid is given.

        Raises UserError for views that this kind of file does not have, a grid that the model was not made for, a budget
        that it cannot keep, a grid together with a budget, a device that is not there, or a dtype that it has not.
        """
        if topk < 1:
            raise UserError(f"topk {topk}: name at least 1 class")
        if grid is not None and budget is not None:
            raise UserError(f"grid {grid} and budget {budget} both say what is spent on an input; give one of them")
        serving = serving or Serving()
        self.classifier, self.serving = classifier, serving
        self.views, self.topk, self.gallery = views, topk, gallery
        self.device = pick_device(serving.device)
        networks = classifier.networks if grid is None else _at(classifier.networks, grid)
        # Before anything is measured: the views may be wrong. It starts helpers with the first files only.
        self._reader = self._open_reader(serving.readers)
        self._computing = threading.Lock()  # a server asks from several threads; each batch has the whole machine
        shape = classifier.input_shape
        self.plan = choose_plan(
            networks.model, shape, self.device, serving.dtype, serving.compile, serving.max_batch, serving.num_inputs
        )
        runtime = Runtime(networks.model, self.device, self.plan.dtype, self.plan.compiled, self.plan.max_batch)
        self.networks = networks.served_by(runtime).to(self.device)
        self._limits = [runtime.limit(one) for one in networks.grids]
        self._normalise = classifier.normalizer.to(self.device)
        self._transfer = Transfer(self.device)
        self._clock_seconds, self._num_clocked = 0.0, 0
        self._chosen: tuple[BudgetCurve, Choice] | None = None
        wanted = classifier.budget if budget is None else budget
        if grid is None and wanted is not None:
            self._chosen = self._choose(wanted)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what reading single files holds open. Streams end theirs by themselves."""
        self._reader.close()

    def __call__(self, item: Input) -> Answer:
        """The answer to one input, which is read here and now."""
        reading = Reading(named(item))
        if isinstance(reading.item, str):
            reading.read(self._reader)
        batches, one = self._batches(), opened(reading, self.classifier.input_shape[1:])
        batches.add([one])
        batches.finish()
        return self._answer(one)

    def predict(self, items: Iterable[Input] | Input) -> Iterator[Answer]:
        """Answers to a stream of inputs (or to a single one), in its order. An Answer goes through as it is.

        Raises what the stream itself raises, after the answers to what came before, and UserError where a drawing cannot be
        written.
        """
        if isinstance(items, str | os.PathLike | Tensor | Answer):
            items = [items]
        num_readers = self.serving.readers
        room = num_readers + 1  # until the first input was read, and it is known how large they are
        reads = ReadAhead(map(named, items), self._open_reader, num_readers, room)
        batches = self._batches()
        line: deque[InFlight] = deque()
        fresh: list[InFlight] = []
        measured, more = False, True
        broken: BaseException | None = None
        try:
            while more or line:
                if more and len(line) < room:
                    try:
                        reading = reads.get(self._patience(batches, bool(fresh)))
                    except EndOfStream as end:
                        reading, more, broken = None, False, end.error
                    if reading is not None:
                        line.append(opened(reading, self.classifier.input_shape[1:]))
                        fresh.append(line[-1])
                        if not measured and reading.views is not None and line[-1].error is None:
                            measured, before = True, room
                            room = max(room, self._room(reading.views))
                            if room > before:
                                reads.release(room - before)
                        if len(fresh) < ASSIGNED_TOGETHER:
                            continue
                batches.add(fresh)
                fresh = []
                batches.run_due()
                if not more:
                    batches.finish()
                elif len(line) >= room and not line[0].is_done:
                    batches.run_oldest()
                while line and line[0].is_done:
                    yield self._answer(line.popleft())
                    reads.release()
            if broken is not None:
                raise broken
        finally:
            reads.close()

    @property
    def budget(self) -> dict[str, Any] | None:
        """What was asked for, predicted, and achieved with the inputs so far, as JSON values; None without a budget."""
        policy = self.networks.policy
        if self._chosen is None or policy is None:
            return None
        curve, choice = self._chosen
        ms_clock = 1000 * self._clock_seconds / self._num_clocked if self._num_clocked else None
        return {
            "asked": str(choice.budget),
            "predicted": choice.predicted(curve),
            "achieved": achieved(choice, curve, policy, ms_clock),
            "how": choice.point.how,
            "held": policy.hold,
            "calibrated_on": curve.split,
            **({} if choice.milliseconds is None else {"milliseconds": choice.milliseconds.how}),
        }

    def label(self, number: int) -> str:
        """What a class is called; its number where it has no name."""
        names = self.classifier.label_names
        return names[number] if names else f"class {number}"

    def _open_reader(self, num_at_once: int = 1) -> Reader:
        salvage = self.serving.damaged == "salvage"
        return self.classifier.inputs.open(self.views, num_at_once=num_at_once, salvage=salvage)

    def _batches(self) -> StreamBatches:
        return StreamBatches(
            self.networks, self._normalise, self._transfer, self._limits, self.serving.max_wait_seconds, self._computing
        )

    def _patience(self, batches: StreamBatches, are_fresh: bool) -> float | None:
        """How long the next input may take before what is there goes on without it."""
        if are_fresh:
            return 0.0
        left = batches.seconds_left()
        # No longer than a lock can wait.
        return None if left is None or math.isinf(left) else min(left, threading.TIMEOUT_MAX)

    def _room(self, views: Tensor) -> int:
        """Inputs that may be under way: enough to fill the batches of all lengths, as far as memory goes."""
        full = 2 * sum(self._limits) // len(views) + 8
        return max(2, min(full, self.serving.memory_mb * 1_000_000 // views.numel()))

    @torch.inference_mode()
    def _answer(self, one: InFlight) -> Answer:
        item = one.reading.item
        if isinstance(item, Answer):
            return item
        path = item if isinstance(item, str) else ""
        if one.error is not None:
            return Answer(path, error=one.error)
        with self._computing:
            self._clock_seconds += one.seconds
            self._num_clocked += len(one.lengths)
        probabilities = self._merged(torch.stack([logits for logits in one.logits if logits is not None]))
        if not bool(probabilities.isfinite().all()):
            return Answer(path, error="the model's answer is not a number; its weights are damaged")
        best = probabilities.topk(min(self.topk, len(probabilities)))
        guesses = tuple(
            Guess(number, self.label(number), probability)
            for number, probability in zip(best.indices.tolist(), best.values.tolist())
        )
        names = tuple(self.networks.grids[length].name for length in one.lengths)
        drawing = None if self.gallery is None else self._drawn(path, one, guesses[0])
        times = (one.reading.milliseconds, 1000 * one.seconds)
        warning = one.reading.warning
        return Answer(path, guesses, names, *times, warning=warning, drawing=drawing, gmacs=self._spent_on(names))

    def _merged(self, logits: Tensor) -> Tensor:
        """(V, K) -> probabilities (K,)."""
        views = logits.unsqueeze(0)
        if self.classifier.merge == "logits":
            # Summed logits decide; their mean, which has the same order, makes sensible probabilities.
            return (merge_views(views, "logits") / len(logits)).softmax(dim=1)[0]
        return merge_views(views, self.classifier.merge)[0]

    def _drawn(self, path: str, one: InFlight, best: Guess) -> str | None:
        # Imported here: drawing letters is of no use to the others.
        from revit.common.drawing.look import looks_of
        from revit.common.drawing.sheet import draw_sheet

        assert self.gallery is not None
        title = f"{best.label}: {100 * best.probability:.1f} %"
        grids = [self.networks.grids[length] for length in one.lengths]
        looks = looks_of(self.classifier.networks.model, one.views, grids, one.reductions)
        return self.gallery.save(path, draw_sheet(title, looks))

    def _choose(self, budget: str) -> tuple[BudgetCurve, Choice]:
        networks, shape = self.networks, self.classifier.input_shape
        curve = curve_of(networks, "this checkpoint")
        choice = choose(
            budget, curve, networks, shape, self.device, self.plan.dtype, self.plan.max_batch, self.plan.how
        )
        networks.policy = curve.policy(choice.point, choice.holds and self.classifier.hold_budget)
        return curve, choice

    def _spent_on(self, names: tuple[str, ...]) -> float | None:
        policy = self.networks.policy
        if self._chosen is None or policy is None:
            return None
        prices = self._chosen[0].grids
        return round(sum(prices[name] for name in names) / len(names) + policy.assigner_price, 9)


def _at(networks: AdaptiveClassifier, grid: TokenGrid) -> AdaptiveClassifier:
    """The same at one grid. UserError for one that the model was not made for."""
    try:
        networks.model.check_grid(grid)
    except (KeyError, ValueError) as error:
        names = ", ".join(known.name for known in networks.grids)
        flexible = f" ({error.args[0]})" if getattr(networks.model, "is_flexible", False) else ""
        raise UserError(f"the model runs at {names}, not at {grid}{flexible}") from error
    return AdaptiveClassifier(networks.model, max_batch=networks.max_batch, grids=(grid,)).eval()
