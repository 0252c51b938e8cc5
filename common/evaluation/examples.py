"""The paper's Figure 6: samples by the token grid they were assigned, a few of each class; and beside them the mistakes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from revit.common.data.batch import Item
from revit.common.evaluation.record import EvaluationRecord, Example

SEED = 0
NUM_CLASSES = 8
"""Number of classes, as in the paper."""
PER_CELL = {"picture": 3, "clip": 2}
"""Samples of a class at one grid; the paper shows three pictures; a clip takes the place of several."""
NUM_FRAMES = 4
HEIGHT = {"picture": 112, "clip": 88}
"""Height of a thumbnail in pixels."""


def cells_of(record: EvaluationRecord) -> Tensor:
    """Return where each sample is shown among those of its class, (N,): at its grid if it was answered rightly (of several
    views that of the first), behind all grids if not."""
    grid = torch.zeros_like(record.ids) if record.grid_index is None else record.grid_index[:, 0]
    return torch.where(record.correct(record.policy) == 1, grid, len(record.grids))


def choose(record: EvaluationRecord, per_cell: int, num_classes: int = NUM_CLASSES, seed: int = SEED) -> list[int]:
    """Return rows of the samples to show, by class and then by `cells_of`, up to `per_cell` each; fewer where there are no more.

    Those that were answered rightly are drawn, as in the paper; of the wrong ones the surest come first, as these tell most
    of the data and of the model. Of more classes than `num_classes` some are drawn among those that fill the most cells.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(record.ids), generator=generator)
    places = cells_of(record)
    wrong = places[order] == len(record.grids)
    sure = record.probabilities[record.policy][order[wrong]]
    found: dict[int, list[list[int]]] = {}
    for row in [*order[~wrong].tolist(), *order[wrong][sure.argsort(descending=True, stable=True)].tolist()]:
        cells = found.setdefault(int(record.targets[row]), [[] for _ in (*record.grids, "wrong")])
        cell = cells[int(places[row])]
        if len(cell) < per_cell:
            cell.append(row)
    drawn = torch.randperm(len(record.label_names), generator=generator).tolist()
    most = sorted((number for number in drawn if number in found), key=lambda number: -sum(map(bool, found[number])))
    return [row for number in sorted(most[:num_classes]) for cell in found[number] for row in cell]


def make_examples(record: EvaluationRecord, read: Callable[[int], Item], paths: Sequence[str]) -> tuple[Example, ...]:
    """Make thumbnails of the chosen samples.

    read: the sample at a position of the list as it is evaluated, its inputs uint8 (V, C, H, W) or (V, C, T, H, W); the
        first view is shown. Samples that can no longer be read are left out.
    """
    first = read(int(record.ids[0])).inputs
    kind = "clip" if first is not None and first.ndim == 5 else "picture"
    examples = []
    for row in choose(record, PER_CELL[kind]):
        position = int(record.ids[row])
        inputs = read(position).inputs
        if inputs is not None:
            examples.append(Example(row, paths[position], thumbnails(inputs[0], HEIGHT[kind])))
    return tuple(examples)


def thumbnails(view: Tensor, height: int) -> tuple[bytes, ...]:
    """Make JPEG files `height` pixels high of uint8 (C, H, W), or of a few evenly spaced frames of (C, T, H, W)."""
    frames = view.unsqueeze(1) if view.ndim == 3 else view
    num, rows, columns = frames.shape[1:]
    size = (max(1, round(columns * height / rows)), height)
    places = np.unique(np.linspace(0, num - 1, min(num, NUM_FRAMES)).round().astype(int))
    pixels = frames.expand(3, *frames.shape[1:]).permute(1, 2, 3, 0).cpu().numpy()
    files = []
    for place in places:
        small = Image.fromarray(np.ascontiguousarray(pixels[place])).resize(size, Image.Resampling.LANCZOS)
        out = io.BytesIO()
        small.save(out, format="JPEG", quality=80)
        files.append(out.getvalue())
    return tuple(files)
