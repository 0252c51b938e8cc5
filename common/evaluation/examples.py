"""The paper's Figure 6: samples by the token length they were assigned, a few of each class, chosen by a fixed seed."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from revit.common.data.batch import Item
from revit.common.evaluation.record import ADAPTIVE, Example, Seen

SEED = 0
NUM_CLASSES = 8
"""As in the paper."""
PER_CELL = {"picture": 3, "clip": 2}
"""Samples of a class at one length; the paper shows three pictures; a clip takes the place of several."""
NUM_FRAMES = 4
HEIGHT = {"picture": 64, "clip": 44}
"""Of a thumbnail in pixels."""


def choose(seen: Seen, per_cell: int, num_classes: int = NUM_CLASSES, seed: int = SEED) -> list[int]:
    """Rows of the samples to show, by class and then by length, longest first; none without an assigner.

    As in the paper only samples that were answered rightly, up to `per_cell` for each class and length: where fewer were
    assigned a length, fewer are shown. Of more classes than `num_classes` some are drawn among those that come at the most
    lengths. The length of a sample of several views is that of the first view.
    """
    if seen.lengths is None:
        return []
    generator = torch.Generator().manual_seed(seed)
    right = seen.correct(ADAPTIVE) == 1
    lengths = seen.lengths[:, 0]
    found: dict[int, list[list[int]]] = {}
    order = torch.randperm(len(seen.ids), generator=generator)
    for row in order[right[order]].tolist():
        cells = found.setdefault(int(seen.targets[row]), [[] for _ in seen.grids])
        cell = cells[int(lengths[row])]
        if len(cell) < per_cell:
            cell.append(row)
    drawn = torch.randperm(len(seen.label_names), generator=generator).tolist()
    most = sorted((number for number in drawn if number in found), key=lambda number: -sum(map(bool, found[number])))
    return [row for number in sorted(most[:num_classes]) for cell in found[number] for row in cell]


def make_examples(seen: Seen, read: Callable[[int], Item], paths: Sequence[str]) -> list[Example]:
    """Thumbnails of the chosen samples.

    read: the sample at a position of the list as it is evaluated, its inputs uint8 (V, C, H, W) or (V, C, T, H, W); the
        first view is shown. Samples that can no longer be read are left out.
    """
    first = next((item for item in map(read, seen.ids[:1].tolist()) if item.inputs is not None), None)
    kind = "clip" if first is not None and first.inputs is not None and first.inputs.ndim == 5 else "picture"
    examples = []
    for row in choose(seen, PER_CELL[kind]):
        position = int(seen.ids[row])
        inputs = read(position).inputs
        if inputs is not None:
            examples.append(Example(row, paths[position], thumbnails(inputs[0], HEIGHT[kind])))
    return examples


def thumbnails(view: Tensor, height: int) -> tuple[bytes, ...]:
    """uint8 (C, H, W), or (C, T, H, W) of which a few frames are taken, evenly spaced -> JPEG files `height` pixels high."""
    frames = view.unsqueeze(1) if view.ndim == 3 else view
    num = frames.shape[1]
    places = np.unique(np.linspace(0, num - 1, min(num, NUM_FRAMES)).round().astype(int))
    pixels = frames.expand(3, *frames.shape[1:]).permute(1, 2, 3, 0).cpu().numpy()
    return tuple(_jpeg(Image.fromarray(np.ascontiguousarray(pixels[place])), height) for place in places)


def _jpeg(picture: Image.Image, height: int) -> bytes:
    width = max(1, round(picture.width * height / picture.height))
    small = picture.resize((width, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, format="JPEG", quality=80)
    return out.getvalue()
