"""A trained model with all that classifying files needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from revit.common.data.reader import Reader
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.models.load_report import LoadReport


class Inputs(Protocol):
    """Files that a classifier answers for."""

    @property
    def noun(self) -> str:
        """Word for one of them: "clip", "picture"."""

    @property
    def extensions(self) -> Collection[str]:
        """Extensions that a folder is searched for, lower case with the dot."""

    def open(self, views: str, *, num_at_once: int = 1, salvage: bool | None = None) -> Reader:
        """Open a reader.

        views: looks at each file; "test" for those of the checkpoint's own test.  num_at_once: files that it reads side by
        side.  salvage: read the whole parts of a damaged file, where it has parts; None: as its settings say.

        Raises UserError for views that these files do not have.
        """


@dataclass(frozen=True)
class Classifier:
    """Networks in evaluation mode on the CPU, the inputs they want, and the names of their classes."""

    networks: AdaptiveClassifier
    inputs: Inputs
    normalizer: nn.Module
    """Module that makes uint8 inputs normalised floats."""
    input_shape: tuple[int, ...]
    """(1, C, ...) of one input."""
    label_names: tuple[str, ...]
    """One per class; empty where the checkpoint names none."""
    merge: str = "logits"
    """Rule by which several views become one answer, see `revit.common.models.base.merge_views`."""
    report: LoadReport | None = None
    """Fate of every tensor of weights made elsewhere."""
    assumed: tuple[str, ...] = ()
    """Settings that those weights do not hold, taken from the published recipes."""
    budget: str | None = None
    """Cost of a view that the checkpoint's own configuration allows, see `revit.common.methods.revit.budget.Budget`."""
    hold_budget: bool = True
    """Keep the mean over all files at the budget."""

    @property
    def num_classes(self) -> int:
        return self.networks.model.num_classes
