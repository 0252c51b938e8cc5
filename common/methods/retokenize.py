"""Progressive re-tokenisation: fewer tokens early in training, from the same weights (As-ViT section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import Field, model_validator
from torch import Tensor, nn

from revit.common.data.batch import Batch
from revit.common.embed.retokenize import ReTokenizing
from revit.common.engine.task import Progress, Task
from revit.common.grid_model import GridModel
from revit.common.methods.method import Method, MethodOptions, Setting
from revit.common.options import Options

if TYPE_CHECKING:
    from revit.common.engine.run_options import RecipeOptions


class Phase(Options):
    """One part of the training."""

    until: float = Field(gt=0, lt=1)
    """Share of the training's samples after which the next phase begins."""
    coarser: int = Field(ge=2)
    """Times the stride of the patch embedding, per side: 2 makes a quarter of the tokens, 4 a sixteenth."""


class RetokenizeOptions(MethodOptions):
    """Coarse tokens first, for models whose patch embedding is a convolution: As-ViT, DeiT and TimeSformer with
    `patch_embed: patchify`. Stride and dilation of the same kernel grow; evaluation is always at full resolution.

    The default is the cheapest row of As-ViT's table 6 (56 % of the training saved by the paper's count); its others are
    until 80 / 300 and 140 / 300, and until 40 / 300 and 70 / 300. What follows the last phase is at full resolution.
    """

    phases: tuple[Phase, ...] = Field(
        default=(Phase(until=0.4, coarser=4), Phase(until=0.7, coarser=2)), min_length=1
    )
    """In order; the learning rate and everything else go on as if nothing happened (paper)."""

    @model_validator(mode="after")
    def _in_order(self) -> RetokenizeOptions:
        if any(later.until <= earlier.until for earlier, later in pairwise(self.phases)):
            ends = ", ".join(f"{phase.until:g}" for phase in self.phases)
            raise ValueError(f"phases end at {ends}; every phase must end after the one before")
        return self

    def coarser_at(self, fraction: float) -> int:
        """Times the stride after this share of the training."""
        return next((phase.coarser for phase in self.phases if fraction < phase.until), 1)


@dataclass
class RetokenizeTask(Task):
    """A run's ordinary task, with the patch embedding told how coarse it is to be."""

    ordinary: Task
    embed: ReTokenizing
    options: RetokenizeOptions

    def begin(self, progress: Progress) -> None:
        self.embed.coarser = self.options.coarser_at(progress.fraction)
        self.ordinary.begin(progress)

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        return self.ordinary.losses(model, inputs, batch)


class Retokenize(Method):
    """Tells the patch embedding, by the progress of the training, how many tokens to make."""

    options_class = RetokenizeOptions
    options: RetokenizeOptions

    def check(self, run: RecipeOptions) -> None:
        embed = getattr(run.model, "patch_embed", None)
        stem = "a stem" if getattr(run.model, "is_lvvit", False) and embed is None else embed
        if stem not in (None, "patchify"):
            raise ValueError(
                f"methods.retokenize widens the stride of one convolution, which a patch embedding by {stem} is not; choose "
                "model.patch_embed patchify, or an As-ViT"
            )
        if "flexivit" in run.methods:
            raise ValueError(
                "methods.retokenize and methods.flexivit both say how many tokens a picture has; leave one out"
            )

    def task(self, task: Task, model: GridModel, setting: Setting) -> Task:
        embed = model.get_submodule("patch_embed")
        assert isinstance(embed, ReTokenizing), "check() lets no other patch embedding through"
        return RetokenizeTask(task, embed, self.options)


METHOD = Retokenize
