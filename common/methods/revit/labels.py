"""Token-length labels: the smallest grid at which a trained model recognises a sample."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from revit.common.data.balance import scaled
from revit.common.data.flat import FlatStrings, GrowingStrings
from revit.common.models.grid import TokenGrid, longest_first
from revit.common.system.errors import UserError
from revit.common.system.files import write_lines

NoneCorrect = Literal["longest", "shortest", "drop"]
DROPPED = -1


def smallest_correct(correct: Tensor, none_correct: NoneCorrect = "longest") -> Tensor:
    """Label (N,) correctness per grid (N, k), longest first, by the last column that is true (ReViT section 3.1).

    The paper's inequality names index j - 1, against its own descending order; the text's "smallest token length that
    classifies correctly" is what is built. A sample that is right at a short grid and wrong at a longer one keeps the
    short one. Where no grid is right the paper is silent: "longest" (default), "shortest" (nothing helps, so spend
    little) or "drop" (label -1).
    """
    shortest_first = correct.flip(1).to(torch.uint8)
    last = correct.shape[1] - 1
    labels = last - shortest_first.argmax(dim=1)
    fallback = {"longest": 0, "shortest": last, "drop": DROPPED}[none_correct]
    return torch.where(correct.any(dim=1), labels, fallback)


def right_grids(scores: Tensor) -> Tensor:
    """Say at which grids (N, k) a sample is answered rightly, of scores (N, k) from 0 to 1: where no other grid does better, and
    not at 0. Of answers that are right or wrong those that are right; of sets of labels, which may be partly right, those as
    good as that of any grid."""
    return (scores == scores.amax(dim=1, keepdim=True)) & (scores > 0)


def class_balanced_weights(labels: Tensor, num_grids: int) -> Tensor:
    """Return weights (k,) inversely proportional to the labels' frequency, mean 1 over the samples; absent labels get 0.

    Labels taken on training data lean to the short grids, which a plain cross entropy would repeat.
    """
    counts = torch.bincount(labels[labels != DROPPED], minlength=num_grids).double().numpy()
    weights = torch.zeros(num_grids)
    weights[torch.tensor(counts > 0)] = torch.tensor(scaled(counts[counts > 0], 1.0)).float()
    return weights


@dataclass(frozen=True)
class LengthLabels:
    """One row per labelled sample; what `save` writes is a CSV that people can read and sort."""

    grids: tuple[TokenGrid, ...]
    ids: Tensor
    """Positions in the split's list, (N,) long."""
    paths: Sequence[str]
    targets: Sequence[str]
    """Class numbers, as text; several of a sample joined by `;`."""
    correct: Tensor
    """Correctness (N, k), bool, longest grid first."""
    none_correct: NoneCorrect = "longest"

    @property
    def labels(self) -> Tensor:
        """Grid index (N,), or -1 for dropped samples."""
        return smallest_correct(self.correct, self.none_correct)

    @classmethod
    def joined(cls, parts: Sequence[LengthLabels]) -> LengthLabels:
        """Return the labels of several parts of one list as one, in the list's order."""
        ids, order = torch.cat([part.ids for part in parts]).sort()
        paths = FlatStrings.of(path for part in parts for path in part.paths)
        return cls(
            grids=parts[0].grids,
            ids=ids,
            paths=paths.take(order.tolist()),
            targets=FlatStrings.of(target for part in parts for target in part.targets).take(order.tolist()),
            correct=torch.cat([part.correct for part in parts])[order],
            none_correct=parts[0].none_correct,
        )

    def by_id(self, paths: Sequence[str], source: str) -> Tensor:
        """Return labels (len(paths),) in the order of a split's list, -1 where it has none; `source` names the labels' file.

        Raise UserError if the labels are of another list.
        """
        ids, fault = self.ids.tolist(), "" if len(self.ids) else "it has none"
        for row, id in enumerate(ids):
            # Folder and name: a data set that moved is still the same.
            if id >= len(paths) or _tail(paths[id]) != _tail(self.paths[row]):
                fault = f"sample {id} is {self.paths[row]} there"
                break
        if fault:
            raise UserError(f"{source}: labels of another list ({fault}); run the stage 'lengths' again")
        labels = torch.full((len(paths),), DROPPED)
        labels[self.ids] = self.labels
        return labels

    def shares(self) -> dict[str, float]:
        """Return grid name -> fraction of the labelled samples."""
        labels = self.labels
        counts = torch.bincount(labels[labels != DROPPED], minlength=len(self.grids)).tolist()
        total = max(sum(counts), 1)
        return {grid.name: count / total for grid, count in zip(self.grids, counts)}

    def save(self, path: Path) -> None:
        """Write the CSV, whole or not at all."""
        write_lines(path, self._lines())

    def _lines(self) -> Iterator[str]:
        # A writer answers with what its file's `write` does: the line itself.
        line = csv.writer(SimpleNamespace(write=str)).writerow
        yield line(["id", "path", "target", "length", *(f"correct_{grid}" for grid in self.grids)])
        # NumPy, as picking single numbers out of a tensor takes ten times as long.
        ids, labels = self.ids.numpy(), self.labels.numpy()
        correct = self.correct.byte().numpy()
        for row, path in enumerate(self.paths):
            length = "" if labels[row] == DROPPED else self.grids[labels[row]]
            yield line([ids[row], path, self.targets[row], length, *correct[row].tolist()])

    @classmethod
    def load(cls, path: Path, none_correct: NoneCorrect = "longest") -> LengthLabels:
        """Read what `save` wrote. Raise UserError for a missing or foreign file."""
        ids, targets, paths, correct = array("q"), GrowingStrings(), GrowingStrings(), bytearray()
        try:
            with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
                rows = csv.reader(file)
                header = next(rows, [])
                grids = longest_first(name.removeprefix("correct_") for name in header[4:])
                for row in rows:
                    ids.append(int(row[0]))
                    paths.append(row[1])
                    targets.append(row[2])
                    correct += bytes(flag == "1" for flag in row[4:])
            return cls(
                grids=grids,
                ids=torch.tensor(np.array(ids)),
                paths=paths.flat(),
                targets=targets.flat(),
                correct=torch.tensor(np.array(correct)).bool().view(len(ids), len(grids)),
                none_correct=none_correct,
            )
        except (OSError, ValueError, IndexError, RuntimeError) as error:
            raise UserError(f"{path} holds no token-length labels ({error}); run the stage 'lengths' again") from error


def _tail(path: str) -> list[str]:
    return path.replace("\\", "/").split("/")[-2:]
