"""Classifying files that nobody labelled: files in, class names out."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revit.common.data.broken import BrokenSample
from revit.common.drawing.gallery import Gallery
from revit.common.engine.backend import autocast
from revit.common.engine.calibrate import achieved, choose, curve_of
from revit.common.engine.classifier import Classifier
from revit.common.engine.evaluate import merge_views
from revit.common.errors import UserError
from revit.common.tokens.adaptive import AdaptiveClassifier, AdaptiveOutput
from revit.common.tokens.budget import BudgetCurve, Choice
from revit.common.tokens.grid import TokenGrid


@dataclass(frozen=True)
class Guess:
    """One class, how it is called and how likely it is held."""

    number: int
    label: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What is said of one file: the likeliest classes, or why there is no answer."""

    path: str
    guesses: tuple[Guess, ...] = ()
    grids: tuple[str, ...] = ()
    """The token grid of each view."""
    read_ms: float = 0.0
    compute_ms: float = 0.0
    error: str | None = None
    drawing: str | None = None
    """The file that shows what was spent on it."""
    gmacs: float | None = None
    """Of a view in the mean, with the assigner where it was asked; None where no calibration knows it."""

    @property
    def grid(self) -> str:
        """The token grid used; where the views differ, each with its count ("14x14 x2, 7x7 x1")."""
        counts = Counter(self.grids)
        if len(counts) < 2:
            return "".join(counts)
        return ", ".join(f"{name} x{count}" for name, count in counts.items())

    def as_json(self) -> dict[str, Any]:
        """JSON values: `path` with either `error`, or `top` (likeliest first), `grid`, `grids`, milliseconds, and `drawing`
        where there is one."""
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        top = [
            {"label": guess.label, "class": guess.number, "probability": round(guess.probability, 6)}
            for guess in self.guesses
        ]
        milliseconds = {
            "ms": round(self.read_ms + self.compute_ms, 3),
            "ms_read": round(self.read_ms, 3),
            "ms_compute": round(self.compute_ms, 3),
        }
        drawing = {} if self.drawing is None else {"drawing": self.drawing}
        spent = {} if self.gmacs is None else {"gmacs": self.gmacs}
        return {
            "path": self.path,
            "top": top,
            "grid": self.grid,
            "grids": list(self.grids),
            **milliseconds,
            **spent,
            **drawing,
        }


class Predictor:
    """Answers for one file after the other; a file that cannot be read gets an answer that says why.

    Files are looked at one by one, so that the milliseconds of each are its own and memory does not depend on how
    many there are. Close it (or use it as a context) to end what the reading holds open.
    """

    def __init__(
        self,
        classifier: Classifier,
        device: torch.device,
        dtype: str = "float32",
        views: str = "1",
        grid: TokenGrid | None = None,
        topk: int = 5,
        gallery: Gallery | None = None,
        budget: str | None = None,
    ) -> None:
        """views: as on the command line, see `Inputs.open`. grid: for all files, instead of the assigner's. gallery: takes
        a drawing of every file answered. budget: what a view may cost in the mean, as on the command line.

        Raises UserError for views that this kind of file does not have, a grid that the model was not made for, or a budget
        that it cannot keep.
        """
        self.classifier, self.device, self.dtype, self.topk = classifier, device, dtype, topk
        self.gallery = gallery
        self.networks = classifier.networks.to(device)
        self.normalise = classifier.pixels.to(device)
        if grid is not None:
            self.networks = _at(self.networks, grid)
        self.reader = classifier.inputs.open(views)
        self._chosen: tuple[BudgetCurve, Choice] | None = None
        if budget is not None:
            self._chosen = self._choose(budget, views)

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()

    def __call__(self, path: str) -> Answer:
        """Reads and classifies one file, and draws it where that is asked for. Raises UserError where a drawing cannot be
        written."""
        start = time.perf_counter()
        try:
            inputs = self.reader.read(path)
            read = time.perf_counter()
            probabilities, output = self._classify(inputs)
        except BrokenSample as error:
            return Answer(path, error=_one_line(error.reason))
        except (MemoryError, torch.OutOfMemoryError):
            noun = self.classifier.inputs.noun
            return Answer(
                path, error=f"not enough memory for this {noun}; try fewer --views or a shorter --grid"
            )
        done = time.perf_counter()
        if not bool(probabilities.isfinite().all()):
            return Answer(path, error="the model's answer is not a number; its weights are damaged")
        best = probabilities.topk(min(self.topk, len(probabilities)))
        guesses = tuple(
            Guess(number, self.label(number), probability)
            for number, probability in zip(best.indices.tolist(), best.values.tolist())
        )
        grids = [self.networks.grids[position] for position in output.lengths.tolist()]
        drawing = None
        if self.gallery is not None:
            # Imported here: drawing letters is of no use to the others.
            from revit.common.drawing.look import looks_of
            from revit.common.drawing.sheet import draw_sheet

            title = f"{guesses[0].label}: {100 * guesses[0].probability:.1f} %"
            looks = looks_of(self.networks.model, inputs, grids, output.reductions())
            drawing = self.gallery.save(path, draw_sheet(title, looks))
        names = tuple(grid.name for grid in grids)
        times = (1000 * (read - start), 1000 * (done - read))
        return Answer(path, guesses, names, *times, drawing=drawing, gmacs=self._spent_on(names))

    @property
    def budget(self) -> dict[str, Any] | None:
        """What was asked for, predicted, and achieved with the files so far, as JSON values; None without a budget."""
        policy = self.networks.policy
        if self._chosen is None or policy is None:
            return None
        curve, choice = self._chosen
        return {
            "asked": str(choice.budget),
            "predicted": choice.predicted(curve),
            "achieved": achieved(choice, curve, policy),
            "how": choice.point.how,
            "held": policy.hold,
            "calibrated_on": curve.split,
            **({} if choice.milliseconds is None else {"milliseconds": choice.milliseconds.how}),
        }

    def _choose(self, budget: str, views: str) -> tuple[BudgetCurve, Choice]:
        networks, shape = self.networks, self.classifier.input_shape
        curve = curve_of(networks, "this checkpoint")
        assert shape is not None  # only our checkpoints have a curve
        batch = int(views) if views.isdigit() else 1
        choice = choose(budget, curve, networks, shape, self.device, self.dtype, batch)
        networks.policy = curve.policy(choice.point, choice.holds and self.classifier.hold_budget)
        return curve, choice

    def _spent_on(self, names: tuple[str, ...]) -> float | None:
        policy = self.networks.policy
        if self._chosen is None or policy is None:
            return None
        prices = self._chosen[0].grids
        return round(sum(prices[name] for name in names) / len(names) + policy.assigner_price, 9)

    def label(self, number: int) -> str:
        """What a class is called; its number where it has no name."""
        names = self.classifier.label_names
        return names[number] if names else f"class {number}"

    @torch.inference_mode()
    def _classify(self, views: Tensor) -> tuple[Tensor, AdaptiveOutput]:
        """uint8 views (V, C, ...) -> probabilities (K,) on the CPU, and what was said of each view."""
        inputs = self.normalise(views.to(self.device))
        with autocast(self.device, self.dtype):
            output = self.networks(inputs)
        logits = output.prediction.float().cpu().unsqueeze(0)  # (1, V, K)
        if self.classifier.merge == "logits":
            # Summed logits decide; their mean, which has the same order, makes sensible probabilities.
            probabilities = (merge_views(logits, "logits") / logits.shape[1]).softmax(dim=1)
        else:
            probabilities = merge_views(logits, self.classifier.merge)
        return probabilities[0], output


def _at(networks: AdaptiveClassifier, grid: TokenGrid) -> AdaptiveClassifier:
    """The same at one grid. UserError for one that the model was not made for."""
    try:
        networks.model.check_grid(grid)
    except (KeyError, ValueError) as error:
        names = ", ".join(known.name for known in networks.grids)
        flexible = f" ({error.args[0]})" if getattr(networks.model, "is_flexible", False) else ""
        raise UserError(f"the model runs at {names}, not at {grid}{flexible}") from error
    return AdaptiveClassifier(networks.model, max_batch=networks.max_batch, grids=(grid,)).eval()


def find_files(
    path: str, extensions: Collection[str], on_error: Callable[[OSError], object] | None = None
) -> Iterator[str]:
    """The files that a path means: itself, or every file of these extensions below a folder, in alphabetical order.

    Links to folders are not followed (they may go round in circles). on_error is told of folders that cannot be read.
    """
    if not os.path.isdir(path):
        yield path
        return
    for folder, inner, files in os.walk(path, onerror=on_error):
        inner.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in extensions:
                yield os.path.join(folder, name)


def _one_line(text: str) -> str:
    return " ".join(text.split())
