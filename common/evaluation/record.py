"""The record of an evaluation, sample by sample: RUN_DIR/evaluation.safetensors, from which the report's page is drawn.

It holds numbers and JPEG pictures only; reading it executes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import Self

from revit.common.evaluation.evaluate import Evaluation
from revit.common.evaluation.intervals import wilson
from revit.common.methods.revit.labels import right_grids, smallest_correct
from revit.common.models.base import merge_views
from revit.common.system.errors import UserError, reason_of
from revit.common.weights.checkpoint import write_tensors

FORMAT = "revit-evaluation"
VERSION = 1
IN_RUN = "evaluation.safetensors"
"""Name of the file in a run's folder."""
ADAPTIVE = "adaptive"
NONE_RIGHT = "none right"


@dataclass(frozen=True)
class Example:
    """A sample with its pictures."""

    row: int
    """Place among the N samples."""
    name: str
    """Path of its file."""
    frames: tuple[bytes, ...]
    """JPEG files: one of a picture, several of a clip."""


@dataclass(frozen=True)
class EvaluationRecord:
    """N samples in V views, and what was answered to each."""

    label_names: tuple[str, ...]
    grids: tuple[str, ...]
    """Names of the token grids, longest first."""
    ids: Tensor
    """Positions in the split's list, (N,) int64."""
    targets: Tensor
    """Classes, (N,) int64."""
    predictions: Mapping[str, Tensor]
    """Grid name, or "adaptive" -> best class (N,) int64, views merged."""
    probabilities: Mapping[str, Tensor]
    """The same -> probability of that class (N,) float32, by the softmax of the views' mean logits or the mean of their
    softmax, as they are merged."""
    grid_index: Tensor | None = None
    """Index in `grids` that the assigner chose, (N, V) int64."""
    examples: tuple[Example, ...] = ()
    scores: Mapping[str, Tensor] | None = None
    """Where a sample may have several labels: grid name, or "adaptive" -> its score (N,) float64, see `Evaluation.correct`.
    `targets` are then its first labels, -1 for none."""

    @classmethod
    def of(cls, evaluation: Evaluation, grids: Sequence[str], label_names: Sequence[str], merge: str) -> Self:
        """Keep what the page needs of an evaluation; the logits stay behind."""
        predictions, probabilities, scores = {}, {}, {}
        for name in (*grids, ADAPTIVE):
            if name not in evaluation.answers:
                continue
            logits = evaluation.answers[name].logits
            predictions[name] = merge_views(logits, merge).argmax(dim=1)
            merged = evaluation.probabilities(name, merge)
            probabilities[name] = merged.gather(1, predictions[name][:, None]).squeeze(1)
            scores[name] = evaluation.correct(evaluation.decided(name), merge)
        return cls(
            label_names=tuple(label_names),
            grids=tuple(grids),
            ids=evaluation.ids,
            targets=_first_labels(evaluation.targets) if evaluation.several else evaluation.targets,
            predictions=predictions,
            probabilities=probabilities,
            grid_index=evaluation.answers[ADAPTIVE].grid_index if ADAPTIVE in evaluation.answers else None,
            scores=scores if evaluation.several else None,
        )

    @property
    def policy(self) -> str:
        """Key of the answers that stand for the run: the assigner's where there are any, else the longest grid's."""
        return ADAPTIVE if ADAPTIVE in self.predictions else self.grids[0]

    def correct(self, policy: str) -> Tensor:
        """Say which samples were answered rightly, (N,) bool; or their scores."""
        return self.predictions[policy] == self.targets if self.scores is None else self.scores[policy]

    def oracle(self) -> Tensor:
        """Return the index (N,) of the shortest grid that is right, `len(grids)` where none is."""
        right = right_grids(torch.stack([self.correct(grid) for grid in self.grids], dim=1))
        return torch.where(right.any(dim=1), smallest_correct(right), len(self.grids))


def _first_labels(targets: Tensor) -> Tensor:
    """Return the first label (N,) of each set (N, K), -1 where there is none."""
    return torch.where((targets > 0.5).any(dim=1), (targets > 0.5).int().argmax(dim=1), -1)


class _Shown(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    row: int = Field(ge=0)
    name: str
    frames: list[int]
    """End of each JPEG among the bytes of all."""


class _Header(BaseModel):
    model_config = ConfigDict(strict=True)
    version: int
    label_names: list[str]
    grids: list[str] = Field(min_length=1)
    examples: list[_Shown]


def save_record(path: str | Path, record: EvaluationRecord) -> None:
    """Write the file whole or not at all. UserError if it cannot be written."""
    tensors = {"ids": record.ids, "targets": record.targets}
    for name, prediction in record.predictions.items():
        tensors[f"prediction.{name}"] = prediction.int()
        tensors[f"probability.{name}"] = record.probabilities[name].float()
        if record.scores is not None:
            tensors[f"score.{name}"] = record.scores[name].double()
    if record.grid_index is not None:
        tensors["lengths"] = record.grid_index.short()
    shown, pictures = [], bytearray()
    for example in record.examples:
        ends = []
        for frame in example.frames:
            pictures += frame
            ends.append(len(pictures))
        # Names of files that are no text come as surrogates, which JSON writes as it writes any other character.
        shown.append({"row": example.row, "name": example.name, "frames": ends})
    tensors["pictures"] = torch.frombuffer(pictures or bytearray(1), dtype=torch.uint8)
    names = {"label_names": list(record.label_names), "grids": list(record.grids)}
    header = {"version": VERSION, **names, "examples": shown}
    write_tensors(path, "the evaluation", tensors, {FORMAT: json.dumps(header)})


def load_record(path: str | Path) -> EvaluationRecord:
    """Read what `save_record` wrote. UserError with the reason if there is no such file, or it is another or a damaged one."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; evaluations of earlier versions did not write it")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(FORMAT)
            if text is None:
                raise ValueError("it is no evaluation of ours")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        header = _Header.model_validate(json.loads(text))
        if header.version != VERSION:
            raise ValueError(f"format {header.version}, this program reads {VERSION}")
        return _checked(header, tensors)
    except (OSError, SafetensorError, ValidationError, ValueError, KeyError, RecursionError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error).splitlines()[0]
        raise UserError(f"{path}: not what an evaluation saw ({reason})") from error


def _checked(header: _Header, tensors: Mapping[str, Tensor]) -> EvaluationRecord:
    ids, targets = tensors["ids"].long(), tensors["targets"].long()
    num, classes, grids = len(ids), len(header.label_names), header.grids
    names = [*grids, *([ADAPTIVE] if f"prediction.{ADAPTIVE}" in tensors else [])]
    predictions = {name: tensors[f"prediction.{name}"].long() for name in names}
    probabilities = {name: tensors[f"probability.{name}"].float() for name in names}
    grid_index = tensors["lengths"].long() if ADAPTIVE in names else None
    scores = {name: tensors[f"score.{name}"].double() for name in names} if f"score.{names[0]}" in tensors else None
    pictures = tensors["pictures"].numpy().tobytes()
    ends = [0, *(end for shown in header.examples for end in shown.frames)]
    rising = all(start < end <= len(pictures) for start, end in pairwise(ends))
    per_sample = (ids, targets, *predictions.values(), *probabilities.values(), *(scores or {}).values())
    if not num or any(one.shape != (num,) for one in per_sample):
        raise ValueError("its parts have different numbers of samples")
    least = 0 if scores is None else -1
    if int(targets.min()) < least or any(int(one.min()) < 0 for one in predictions.values()):
        raise ValueError("class numbers below 0")
    if any(int(one.max()) >= classes for one in (targets, *predictions.values())):
        raise ValueError("class numbers without a name")
    if grid_index is not None and (grid_index.ndim != 2 or len(grid_index) != num or not grid_index.numel()):
        raise ValueError("its token lengths are not of its samples")
    if grid_index is not None and not 0 <= int(grid_index.min()) <= int(grid_index.max()) < len(grids):
        raise ValueError("token lengths that the model has not")
    if not rising or any(shown.row >= num for shown in header.examples):
        raise ValueError("pictures that are not in it")
    frames = iter([pictures[start:end] for start, end in pairwise(ends)])
    return EvaluationRecord(
        label_names=tuple(header.label_names),
        grids=tuple(grids),
        ids=ids,
        targets=targets,
        predictions=predictions,
        probabilities=probabilities,
        grid_index=grid_index,
        scores=scores,
        examples=tuple(Example(one.row, one.name, tuple(next(frames) for _ in one.frames)) for one in header.examples),
    )


def confusion(record: EvaluationRecord) -> Tensor:
    """Count (K, K) int64 samples of the class of the row that were answered with the class of the column."""
    classes = len(record.label_names)
    flat = record.targets * classes + record.predictions[record.policy]
    return torch.bincount(flat, minlength=classes**2).view(classes, classes)


def per_class(record: EvaluationRecord) -> list[dict[str, Any]]:
    """Return top-1 of every class that has samples, with its 95 % interval, in percent; the worst first."""
    classes = len(record.label_names)
    totals = torch.bincount(record.targets, minlength=classes).tolist()
    rights = torch.bincount(record.targets[record.correct(record.policy)], minlength=classes).tolist()
    rows = []
    for name, right, of in zip(record.label_names, rights, totals):
        if of:
            low, high = wilson(right / of, of)
            interval = {"low": 100 * low, "high": 100 * high}
            rows.append({"class": name, "samples": of, "top1": 100 * right / of, **interval})
    return sorted(rows, key=lambda row: row["top1"])


def confused_pairs(record: EvaluationRecord, most: int = 15) -> list[dict[str, Any]]:
    """Return the classes that are taken for another one most often; `share` is of all samples of the class, in percent."""
    wrong, names = ~record.correct(record.policy), record.label_names
    pairs = torch.stack([record.targets[wrong], record.predictions[record.policy][wrong]], dim=1)
    found, counts = pairs.unique(dim=0, return_counts=True)
    of = torch.bincount(record.targets, minlength=len(names)).tolist()
    rows = []
    for place in counts.argsort(descending=True, stable=True)[:most].tolist():
        (target, answer), count = found[place].tolist(), int(counts[place])
        share = 100 * count / of[target]
        rows.append({"class": names[target], "answered": names[answer], "samples": count, "share": share})
    return rows


def by_length(record: EvaluationRecord) -> list[dict[str, Any]]:
    """Say for each grid what the inputs are worth that the assigner gave it: their number and share, top-1 as they were
    answered, and top-1 of the same samples at every fixed grid. Empty without an assigner.

    An input is a view of a sample; it counts as right where the sample's merged answer is.
    """
    if record.grid_index is None:
        return []
    views = record.grid_index.shape[1]
    correct = {name: record.correct(name)[:, None].expand(-1, views) for name in (ADAPTIVE, *record.grids)}
    rows = []
    for index, grid in enumerate(record.grids):
        given = record.grid_index == index
        num = int(given.sum())
        right = {name: 100 * float(one[given].double().mean()) if num else None for name, one in correct.items()}
        rows.append(
            {"length": grid, "inputs": num, "share": num / given.numel(), "top1": right.pop(ADAPTIVE), "top1_at": right}
        )
    return rows


def assigned_against_needed(record: EvaluationRecord) -> dict[str, list[int]]:
    """Return for each assigned grid the inputs by the grid that they needed: the shortest fixed one that is right, and last
    those that none answers rightly. Empty without an assigner."""
    if record.grid_index is None:
        return {}
    needed = record.oracle()[:, None].expand_as(record.grid_index)
    width = len(record.grids) + 1
    table = torch.bincount((record.grid_index * width + needed).flatten(), minlength=len(record.grids) * width)
    return dict(zip(record.grids, table.view(-1, width).tolist()))
