"""Classifying clips that nobody labelled: files in, class names out."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revit.common.engine.backend import autocast
from revit.common.engine.evaluate import merge_views
from revit.common.errors import UserError
from revit.common.layers.pixels import PixelNorm
from revit.common.tokens.grid import TokenGrid
from revit.video.classifier import VideoClassifier
from revit.video.data.clips import load_views, make_reader
from revit.video.data.decode import DecodeError
from revit.video.data.lists import EXTENSIONS
from revit.video.data.options import ViewOptions


@dataclass(frozen=True)
class Guess:
    """One class, how it is called and how likely it is held."""

    number: int
    label: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What is said of one clip: the likeliest classes, or why there is no answer."""

    path: str
    guesses: tuple[Guess, ...] = ()
    grids: tuple[str, ...] = ()
    """The token grid of each view."""
    read_ms: float = 0.0
    compute_ms: float = 0.0
    error: str | None = None

    @property
    def grid(self) -> str:
        """The token grid used; where the views differ, each with its count ("14x14 x2, 7x7 x1")."""
        counts = Counter(self.grids)
        if len(counts) < 2:
            return "".join(counts)
        return ", ".join(f"{name} x{count}" for name, count in counts.items())

    def as_json(self) -> dict[str, Any]:
        """JSON values: `path` with either `error`, or `top` (likeliest first), `grid`, `grids` and milliseconds."""
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
        return {"path": self.path, "top": top, "grid": self.grid, "grids": list(self.grids), **milliseconds}


class Predictor:
    """Answers for one file after the other; a file that cannot be read gets an answer that says why.

    Clips are looked at one by one, so that the milliseconds of each are its own and memory does not depend on how
    many there are. Close it (or use it as a context) to end the helper process that decodes.
    """

    def __init__(
        self,
        classifier: VideoClassifier,
        device: torch.device,
        dtype: str = "float32",
        views: ViewOptions | None = None,
        grid: TokenGrid | None = None,
        topk: int = 5,
    ) -> None:
        """views: default one stretch and one crop, both in the centre. grid: for all clips, instead of the assigner's.

        Raises UserError for a grid that the model was not made for.
        """
        self.classifier, self.device, self.dtype, self.topk = classifier, device, dtype, topk
        self.views = views or ViewOptions()
        self.networks = classifier.networks.to(device)
        pixels = classifier.clips.pixels
        self.normalise = PixelNorm(pixels.mean, pixels.std).to(device)
        self.reader = make_reader(classifier.clips.loading)
        grids = self.networks.model.grids
        if grid is not None and grid not in grids:
            raise UserError(f"the model runs at {', '.join(known.name for known in grids)}, not at {grid}")
        self.position = None if grid is None else grids.index(grid)

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()

    def __call__(self, path: str) -> Answer:
        """Reads and classifies one file."""
        start = time.perf_counter()
        try:
            clips = load_views(path, self.classifier.clips, self.views, self.reader)
            read = time.perf_counter()
            probabilities, grids = self._classify(clips)
        except DecodeError as error:
            return Answer(path, error=_one_line(error.reason))
        except (MemoryError, torch.OutOfMemoryError):
            return Answer(
                path, error="not enough memory for this clip; try fewer --views or a shorter --grid"
            )
        done = time.perf_counter()
        if not bool(probabilities.isfinite().all()):
            return Answer(path, error="the model's answer is not a number; its weights are damaged")
        best = probabilities.topk(min(self.topk, len(probabilities)))
        guesses = tuple(
            Guess(number, self.label(number), probability)
            for number, probability in zip(best.indices.tolist(), best.values.tolist())
        )
        return Answer(path, guesses, grids, 1000 * (read - start), 1000 * (done - read))

    def label(self, number: int) -> str:
        """What a class is called; its number where it has no name."""
        names = self.classifier.label_names
        return names[number] if names else f"class {number}"

    @torch.inference_mode()
    def _classify(self, clips: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """uint8 views (V, C, T, H, W) -> probabilities (K,) on the CPU, and the grid of each view."""
        inputs = self.normalise(clips.to(self.device))
        lengths = None
        if self.position is not None:
            lengths = torch.full((len(inputs),), self.position, device=self.device)
        with autocast(self.device, self.dtype):
            output = self.networks(inputs, lengths)
        logits = output.prediction.float().cpu().unsqueeze(0)  # (1, V, K)
        if self.classifier.merge == "logits":
            # Summed logits decide; their mean, which has the same order, makes sensible probabilities.
            probabilities = (merge_views(logits, "logits") / logits.shape[1]).softmax(dim=1)
        else:
            probabilities = merge_views(logits, self.classifier.merge)
        names = [grid.name for grid in self.networks.model.grids]
        return probabilities[0], tuple(names[position] for position in output.lengths.tolist())


def find_clips(path: str) -> Iterator[str]:
    """The files that a path means: itself, or every clip below a folder in alphabetical order, by its extension.

    Links to folders are not followed (they may go round in circles).
    """
    if not os.path.isdir(path):
        yield path
        return
    for folder, inner, files in os.walk(path):
        inner.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in EXTENSIONS:
                yield os.path.join(folder, name)


def parse_views(text: str) -> ViewOptions:
    """ "3" is three crops of the central stretch, "4x3" four stretches of three crops each.

    Raises:
        UserError: anything else.
    """
    stretches, _, crops = text.rpartition("x")
    try:
        return ViewOptions(num_temporal_views=int(stretches or 1), num_crops=int(crops))  # type: ignore[arg-type]
    except ValueError:
        raise UserError(
            f"--views {text}: write CROPS or STRETCHESxCROPS with 1 or 3 crops, such as 3 or 4x3"
        ) from None


def _one_line(text: str) -> str:
    return " ".join(text.split())
