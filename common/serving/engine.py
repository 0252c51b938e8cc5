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
from revit.common.methods.label_limits import limits_in
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.methods.revit.budget import BudgetCurve, Choice
from revit.common.modality.modality import Classifier
from revit.common.models.base import view_probabilities
from revit.common.models.grid import TokenGrid
from revit.common.serving.answer import Answer, Guess
from revit.common.serving.batches import StreamBatches, Transfer
from revit.common.serving.budgets import budget_figures, choose, curve_of
from revit.common.serving.options import Serving
from revit.common.serving.plan import choose_plan
from revit.common.serving.reading import EndOfStream, InFlight, ReadAhead
from revit.common.serving.runtime import Runtime
from revit.common.system.device import pick_device
from revit.common.system.errors import UserError

Input = str | os.PathLike[str] | Tensor | Answer
"""A file, pixels uint8 (V, C, ...) as the model is to see them (resized and cropped), or what is answered already."""
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
        *,
        views: str | int = "1",
        grid: TokenGrid | str | None = None,
        topk: int = 5,
        budget: str | float | None = None,
        gallery: Gallery | None = None,
        **serving: Any,
    ) -> None:
        """Make a classifier that was opened ready to answer.

        views: as on the command line, see `Inputs.open`. grid: for all inputs, instead of the assigner's. budget: what a view
        may cost in the mean, as on the command line; None takes the checkpoint's own, if it has one and no grid is given.
        gallery: takes a drawing of every input answered. serving: fields of `Serving`.

        Raises UserError for views that this kind of file does not have, a grid that cannot be read or that the model was not
        made for, a budget that it cannot keep, a grid together with a budget, a device that is not there, or a dtype that it
        has not; TypeError for a keyword that there is not.
        """
        if topk < 1:
            raise UserError(f"topk {topk}: name at least 1 class")
        if grid is not None and budget is not None:
            raise UserError(f"grid {grid} and budget {budget} both say what is spent on an input; give one of them")
        settings, shape = Serving(**serving), classifier.input_shape
        self.classifier, self.serving = classifier, settings
        self.views, self.topk, self.gallery = str(views), topk, gallery
        self.device = pick_device(settings.device)
        networks = classifier.networks if grid is None else _at(classifier.networks, grid)
        self._num_readers = settings.num_readers or min(8, torch.get_num_threads())
        # Before anything is measured: the views may be wrong. It starts helpers with the first files only.
        self._reader = self._open_reader(self._num_readers)
        self._computing = threading.Lock()  # a server asks from several threads; each batch has the whole machine
        self.plan = plan = choose_plan(
            networks.model,
            shape,
            self.device,
            settings.dtype,
            settings.compile,
            settings.max_batch,
            settings.num_inputs,
        )
        runtime = Runtime(networks.model, self.device, plan.dtype, plan.compiled, plan.max_batch)
        self.networks = networks.served_by(runtime).to(self.device)
        self._limits = [runtime.limit(one) for one in networks.grids]
        self._normalise = classifier.normalizer.to(self.device)
        self._label_limits = limits_in(classifier.networks.facts, self.networks.grids, classifier.num_classes)
        self._transfer = Transfer(self.device)
        self._clock_seconds, self._num_clocked = 0.0, 0
        self._chosen: tuple[BudgetCurve, Choice] | None = None
        wanted = classifier.budget if budget is None else budget
        if grid is None and wanted is not None:
            curve = curve_of(self.networks, "this checkpoint")
            choice = choose(str(wanted), curve, self.networks, shape, self.device, plan.dtype, plan.max_batch, plan.how)
            self.networks.policy = curve.policy(choice.point, choice.holds and classifier.hold_budget)
            self._chosen = curve, choice

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what reading single files holds open. Streams end theirs by themselves."""
        self._reader.close()

    def __call__(self, item: Input) -> Answer:
        """Answer one input, which is read here and now."""
        one, batches = InFlight(_named(item)), self._batches()
        if isinstance(one.item, str):
            one.read(self._reader)
        self._check(one)
        batches.add([one])
        batches.finish()
        return self._answer(one)

    def predict(self, items: Iterable[Input] | Input) -> Iterator[Answer]:
        """Yield the answers to a stream of inputs (or to a single one), in its order. An Answer goes through as it is.

        Raises what the stream itself raises, after the answers to what came before, and UserError where a drawing cannot be
        written.
        """
        if isinstance(items, str | os.PathLike | Tensor | Answer):
            items = [items]
        room = self._num_readers + 1  # until the first input was read, and it is known how large they are
        reads = ReadAhead(map(_named, items), self._open_reader, self._num_readers, room)
        batches = self._batches()
        line: deque[InFlight] = deque()
        fresh: list[InFlight] = []
        measured, more = False, True
        broken: BaseException | None = None
        try:
            while more or line:
                if more and len(line) < room:
                    try:
                        one = reads.get(self._patience(batches, bool(fresh)))
                    except EndOfStream as end:
                        one, more, broken = None, False, end.error
                    if one is not None:
                        self._check(one)
                        line.append(one)
                        fresh.append(one)
                        if not measured and one.views is not None and one.error is None:
                            measured, before = True, room
                            room = max(room, self._room(one.views))
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
        """Figures of the budget with the inputs so far, as JSON values, see `budget_figures`; None without a budget."""
        policy = self.networks.policy
        if self._chosen is None or policy is None:
            return None
        curve, choice = self._chosen
        share = dict(zip(curve.grids, (count / max(policy.num_inputs, 1) for count in policy.counts)))
        spent = {"inputs": policy.num_inputs, "gmacs": policy.mean, "share": share}
        ms_clock = 1000 * self._clock_seconds / self._num_clocked if self._num_clocked else None
        return budget_figures(choice, curve, policy, spent, ms_clock)

    def label(self, number: int) -> str:
        """Return the name of a class; its number where it has none."""
        names = self.classifier.label_names
        return names[number] if names else f"class {number}"

    def _open_reader(self, num_at_once: int = 1) -> Reader:
        salvage = self.serving.damaged == "salvage"
        return self.classifier.inputs.open(self.views, num_at_once=num_at_once, salvage=salvage)

    def _batches(self) -> StreamBatches:
        return StreamBatches(
            self.networks, self._normalise, self._transfer, self._limits, self.serving.max_wait_seconds, self._computing
        )

    def _check(self, one: InFlight) -> None:
        """Set the error of an input that cannot be computed."""
        item = one.item
        if isinstance(item, Tensor):
            one.views = item
        views, wanted = one.views, self.classifier.input_shape[1:]
        if isinstance(item, Answer):
            one.error = "it was answered before"
        elif not isinstance(item, str | Tensor):
            one.error = f"it is a {type(item).__name__}; give the path of a file, or pixels as a tensor"
        elif views is not None and (views.layout != torch.strided or views.is_meta):
            one.error = f"its pixels are a {'meta' if views.is_meta else 'sparse'} tensor; give a plain one"
        elif views is not None and (views.dtype != torch.uint8 or not views.numel() or views.shape[1:] != wanted):
            shape = " x ".join(map(str, wanted))
            one.error = f"its pixels are {views.dtype} {tuple(views.shape)}; the model wants uint8 V x {shape}"

    def _patience(self, batches: StreamBatches, are_fresh: bool) -> float | None:
        """Return how long the next input may take before what is there goes on without it."""
        if are_fresh:
            return 0.0
        left = batches.seconds_left()
        # No longer than a lock can wait.
        return None if left is None or math.isinf(left) else min(left, threading.TIMEOUT_MAX)

    def _room(self, views: Tensor) -> int:
        """Return how many inputs may be under way: enough to fill the batches of all grids, as far as memory goes."""
        full = 2 * sum(self._limits) // len(views) + 8
        return max(2, min(full, self.serving.memory_mb * 1_000_000 // views.numel()))

    @torch.inference_mode()
    def _answer(self, one: InFlight) -> Answer:
        item = one.item
        if isinstance(item, Answer):
            return item
        path = item if isinstance(item, str) else ""
        if one.error is not None:
            return Answer(path, error=one.error)
        with self._computing:
            self._clock_seconds += one.seconds
            self._num_clocked += len(one.grid_index)
        logits = torch.stack([row for row in one.logits if row is not None])[None]  # (1, V, K)
        several = self.classifier.several_labels
        probabilities = view_probabilities(logits, self.classifier.merge, several)[0]
        if not bool(probabilities.isfinite().all()):
            return Answer(path, error="the model's answer is not a number; its weights are damaged")
        best = probabilities.topk(min(self.topk, len(probabilities)))
        guesses = tuple(
            Guess(number, self.label(number), probability)
            for number, probability in zip(best.indices.tolist(), best.values.tolist())
        )
        grids = [self.networks.grids[index] for index in one.grid_index]
        labels = None
        if several:
            limits = 0 if self._label_limits is None else self._label_limits[one.grid_index]
            said = (logits[0] - limits).mean(dim=0) >= 0
            labels = tuple(
                self.label(number) for number in probabilities.argsort(descending=True).tolist() if said[number]
            )
        drawing = None
        if self.gallery is not None and one.views is not None:
            # Imported here: drawing letters is of no use to the others.
            from revit.common.drawing.sheet import draw_sheet, looks_of

            title = f"{guesses[0].label}: {100 * guesses[0].probability:.1f} %"
            looks = looks_of(self.classifier.networks.model, one.views, grids, one.reductions)
            drawing = self.gallery.save(path, draw_sheet(title, looks))
        gmacs, policy = None, self.networks.policy
        if self._chosen is not None and policy is not None:
            prices = self._chosen[0].grids
            gmacs = round(sum(prices[grid.name] for grid in grids) / len(grids) + policy.assigner_price, 9)
        names, times = tuple(grid.name for grid in grids), (one.read_ms, 1000 * one.seconds)
        return Answer(path, guesses, labels, names, *times, warning=one.warning, drawing=drawing, gmacs=gmacs)


def _named(item: Any) -> Any:
    """Return a path as text, anything else as it is."""
    return os.fspath(item) if isinstance(item, os.PathLike) else item


def _at(networks: AdaptiveClassifier, grid: TokenGrid | str) -> AdaptiveClassifier:
    """Make the same at one grid. UserError for one that cannot be read, or that the model was not made for."""
    if isinstance(grid, str):
        try:
            grid = TokenGrid.parse(grid)
        except ValueError as error:
            raise UserError(f"grid: {error}") from None
    try:
        networks.model.check_grid(grid)
    except (KeyError, ValueError) as error:
        names = ", ".join(known.name for known in networks.grids)
        flexible = f" ({error.args[0]})" if getattr(networks.model, "is_flexible", False) else ""
        raise UserError(f"the model runs at {names}, not at {grid}{flexible}") from error
    return AdaptiveClassifier(networks.model, max_batch=networks.max_batch, grids=(grid,)).eval()
