"""Token-length labels: the smallest grid at which a trained model recognises a sample."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from revit.common.errors import UserError
from revit.common.files import write_text
from revit.common.tokens.grid import TokenGrid, longest_first

NoneCorrect = Literal["longest", "shortest", "drop"]
DROPPED = -1


def smallest_correct(correct: Tensor, none_correct: NoneCorrect = "longest") -> Tensor:
    """Correctness per grid (N, k), longest first -> label (N,): the last column that is true (ReViT section 3.1).

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


def class_balanced_weights(labels: Tensor, num_grids: int) -> Tensor:
    """Weights (k,) inversely proportional to the labels' frequency, mean 1 over the samples; absent labels get 0.

    Labels taken on training data lean to the short grids, which a plain cross entropy would repeat.
    """
    counts = torch.bincount(labels[labels != DROPPED], minlength=num_grids).float()
    present = counts > 0
    weights = torch.zeros(num_grids)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


@dataclass(frozen=True)
class LengthLabels:
    """One row per labelled sample; what `save` writes is a CSV that people can read and sort."""

    grids: tuple[TokenGrid, ...]
    ids: Tensor
    """(N,) long, positions in the split's list."""
    paths: Sequence[str]
    targets: Tensor
    """(N,) long, class numbers."""
    correct: Tensor
    """(N, k) bool, longest grid first."""
    none_correct: NoneCorrect = "longest"

    @property
    def labels(self) -> Tensor:
        """(N,) positions in `grids`, or -1 for dropped samples."""
        return smallest_correct(self.correct, self.none_correct)

    def shares(self) -> dict[str, float]:
        """Grid name -> fraction of the labelled samples."""
        labels = self.labels
        counts = torch.bincount(labels[labels != DROPPED], minlength=len(self.grids)).tolist()
        total = max(sum(counts), 1)
        return {grid.name: count / total for grid, count in zip(self.grids, counts)}

    def save(self, path: Path) -> None:
        """Write the CSV, whole or not at all."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["id", "path", "target", "length", *(f"correct_{grid}" for grid in self.grids)])
        rows = zip(
            self.ids.tolist(),
            self.paths,
            self.targets.tolist(),
            self.labels.tolist(),
            self.correct.long().tolist(),
        )
        for id, name, target, label, correct in rows:
            writer.writerow([id, name, target, "" if label == DROPPED else self.grids[label], *correct])
        write_text(path, text.getvalue())

    @classmethod
    def load(cls, path: Path, none_correct: NoneCorrect = "longest") -> LengthLabels:
        """Read what `save` wrote. Raises UserError for a missing or foreign file."""
        try:
            with open(path, newline="", encoding="utf-8") as file:
                header, *rows = list(csv.reader(file))
            grids = longest_first(name.removeprefix("correct_") for name in header[4:])
            return cls(
                grids=grids,
                ids=torch.tensor([int(row[0]) for row in rows]),
                paths=[row[1] for row in rows],
                targets=torch.tensor([int(row[2]) for row in rows]),
                correct=torch.tensor([[flag == "1" for flag in row[4:]] for row in rows]).view(
                    -1, len(grids)
                ),
                none_correct=none_correct,
            )
        except (OSError, ValueError, IndexError) as error:
            raise UserError(
                f"{path} holds no token-length labels ({error}); run the stage 'lengths' again"
            ) from error
