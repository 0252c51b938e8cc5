"""What an evaluation saw, sample by sample: RUN_DIR/evaluation.safetensors, from which the report's page is drawn.

It holds numbers and JPEG pictures only; reading it executes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import Self

from revit.common.evaluation.evaluate import Evaluation
from revit.common.methods.revit.labels import smallest_correct
from revit.common.models.base import merge_views
from revit.common.system.errors import UserError, reason_of

FORMAT = "revit-evaluation"
VERSION = 1
IN_RUN = "evaluation.safetensors"
"""What a run's folder calls it."""
ADAPTIVE = "adaptive"


@dataclass(frozen=True)
class Example:
    """A sample with its pictures."""

    row: int
    """Among the N samples."""
    name: str
    """Its file."""
    frames: tuple[bytes, ...]
    """JPEG files: one of a picture, several of a clip."""


@dataclass(frozen=True)
class Seen:
    """N samples in V views, and what was answered to each."""

    label_names: tuple[str, ...]
    grids: tuple[str, ...]
    """Longest first."""
    ids: Tensor
    """(N,) int64, positions in the split's list."""
    targets: Tensor
    """(N,) int64"""
    predictions: Mapping[str, Tensor]
    """Grid name, or "adaptive" -> best class (N,) int64, views merged."""
    probabilities: Mapping[str, Tensor]
    """The same -> probability of that class (N,) float32, by the softmax of the views' mean logits or the mean of their
    softmax, as they are merged."""
    lengths: Tensor | None = None
    """(N, V) int64 positions in `grids`, as the assigner chose."""
    examples: tuple[Example, ...] = ()

    @classmethod
    def of(cls, evaluation: Evaluation, grids: Sequence[str], label_names: Sequence[str], merge: str) -> Self:
        """What the page needs of an evaluation; the logits stay behind."""
        predictions, probabilities = {}, {}
        for name in (*grids, ADAPTIVE):
            if name not in evaluation.answers:
                continue
            logits = evaluation.answers[name].logits
            predictions[name] = merge_views(logits, merge).argmax(dim=1)
            mean = logits.mean(dim=1).softmax(dim=1) if merge == "logits" else merge_views(logits, merge)
            probabilities[name] = mean.gather(1, predictions[name][:, None]).squeeze(1)
        adaptive = evaluation.answers.get(ADAPTIVE)
        return cls(
            label_names=tuple(label_names),
            grids=tuple(grids),
            ids=evaluation.ids,
            targets=evaluation.targets,
            predictions=predictions,
            probabilities=probabilities,
            lengths=adaptive.lengths if adaptive is not None else None,
        )

    @property
    def policy(self) -> str:
        """Whose answers stand for the run: the assigner's where there are any, else those of the longest grid."""
        return ADAPTIVE if ADAPTIVE in self.predictions else self.grids[0]

    def correct(self, policy: str) -> Tensor:
        """(N,) bool"""
        return self.predictions[policy] == self.targets

    def oracle(self) -> Tensor:
        """(N,): the shortest grid that is right, `len(grids)` where none is."""
        right = torch.stack([self.correct(grid) for grid in self.grids], dim=1)
        return torch.where(right.any(dim=1), smallest_correct(right), len(self.grids))

    def with_examples(self, examples: Sequence[Example]) -> Self:
        """The same with pictures."""
        return replace(self, examples=tuple(examples))


class _Shown(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    row: int = Field(ge=0)
    name: str
    frames: list[int]
    """Where each JPEG ends among the bytes of all."""


class _Header(BaseModel):
    model_config = ConfigDict(strict=True)
    version: int
    label_names: list[str]
    grids: list[str] = Field(min_length=1)
    examples: list[_Shown]


def save_seen(path: str | Path, seen: Seen) -> None:
    """Writes the file whole or not at all. UserError if it cannot be written."""
    path = Path(path)
    tensors = {"ids": seen.ids, "targets": seen.targets}
    for name, prediction in seen.predictions.items():
        tensors[f"prediction.{name}"] = prediction.int()
        tensors[f"probability.{name}"] = seen.probabilities[name].float()
    if seen.lengths is not None:
        tensors["lengths"] = seen.lengths.short()
    shown, pictures = [], bytearray()
    for example in seen.examples:
        ends = []
        for frame in example.frames:
            pictures += frame
            ends.append(len(pictures))
        # Names of files that are no text come as surrogates, which JSON writes as it writes any other character.
        shown.append({"row": example.row, "name": example.name, "frames": ends})
    tensors["pictures"] = torch.frombuffer(pictures or bytearray(1), dtype=torch.uint8)
    header = {"version": VERSION, "label_names": list(seen.label_names), "grids": list(seen.grids), "examples": shown}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        whole = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(whole, temporary, metadata={FORMAT: json.dumps(header)})
        os.chmod(temporary, mode)  # safetensors makes files that only their owner can read
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written ({reason_of(error)})") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_seen(path: str | Path) -> Seen:
    """Reads what `save_seen` wrote. UserError with the reason if there is no such file, or it is another or a damaged one."""
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


def _checked(header: _Header, tensors: Mapping[str, Tensor]) -> Seen:
    ids, targets = tensors["ids"].long(), tensors["targets"].long()
    num, classes, grids = len(ids), len(header.label_names), header.grids
    names = [*grids, *([ADAPTIVE] if f"prediction.{ADAPTIVE}" in tensors else [])]
    predictions = {name: tensors[f"prediction.{name}"].long() for name in names}
    probabilities = {name: tensors[f"probability.{name}"].float() for name in names}
    lengths = tensors["lengths"].long() if ADAPTIVE in names else None
    for what in (ids, targets, *predictions.values(), *probabilities.values()):
        if what.shape != (num,) or not num:
            raise ValueError("its parts have different numbers of samples")
    for what in (targets, *predictions.values()):
        if int(what.min()) < 0 or int(what.max()) >= classes:
            raise ValueError("class numbers without a name")
    if lengths is not None and (lengths.ndim != 2 or len(lengths) != num or not lengths.numel()):
        raise ValueError("its token lengths are not of its samples")
    if lengths is not None and not 0 <= int(lengths.min()) <= int(lengths.max()) < len(grids):
        raise ValueError("token lengths that the model has not")
    data, examples, start = tensors["pictures"].numpy().tobytes(), [], 0
    for shown in header.examples:
        frames = []
        for end in shown.frames:
            if not start < end <= len(data) or shown.row >= num:
                raise ValueError("pictures that are not in it")
            frames.append(data[start:end])
            start = end
        examples.append(Example(shown.row, shown.name, tuple(frames)))
    return Seen(
        label_names=tuple(header.label_names),
        grids=tuple(grids),
        ids=ids,
        targets=targets,
        predictions=predictions,
        probabilities=probabilities,
        lengths=lengths,
        examples=tuple(examples),
    )
