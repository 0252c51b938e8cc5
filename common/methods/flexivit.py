"""FlexiViT: one model that runs at any patch size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from revit.common.config.options import Options
from revit.common.config.sections import StartOptions
from revit.common.data.batch import Batch
from revit.common.methods.base import Method, MethodOptions, Setting, refuse
from revit.common.methods.revit.task import divergence
from revit.common.methods.task import Progress, Task
from revit.common.models.base import GridModel, ModelOutput
from revit.common.models.grid import GridNames, TokenGrid, longest_first

if TYPE_CHECKING:
    from revit.common.methods.run_options import RecipeOptions

SALT = 0x666C6578
"""Salt that keeps these draws apart from others of the same seed and update."""


@dataclass(frozen=True)
class Stage:
    """A distribution over token grids for a share of the training."""

    share: float
    grids: tuple[TokenGrid, ...]
    weights: tuple[float, ...]
    """Weight of each grid, not negative, in any unit."""

    def draw(self, seed: int, update: int) -> TokenGrid:
        """Draw a grid that depends on nothing but the distribution and these two numbers, on any machine."""
        uniform = np.random.default_rng((seed, update, SALT)).random()
        edges = np.cumsum(self.weights) / np.sum(self.weights)
        return self.grids[min(int(np.searchsorted(edges, uniform, side="right")), len(self.grids) - 1)]


def grid_at(stages: Sequence[Stage], seed: int, update: int, fraction: float) -> TokenGrid:
    """Return the grid of an update after this share of the training, the same on every process and after a resume.

    `stages` come one after the other (the curricula of section 5.4); their shares add up to 1.
    """
    ends = np.cumsum([stage.share for stage in stages])
    number = int(np.searchsorted(ends - 1e-9, fraction, side="right"))
    return stages[min(number, len(stages) - 1)].draw(seed, update)


Weights = dict[str | int, Annotated[float, Field(ge=0)]]


class CurriculumStage(Options):
    """One distribution over the token grids, for a share of the training."""

    share: float = Field(gt=0, le=1)
    """Share of the training's samples; all stages together 1."""
    weights: Weights | None = None
    """Grid -> how often it is drawn, in any unit; a grid that is not named is not drawn. Null: all grids alike."""


class FlexiTeacherOptions(Options):
    """A network whose probabilities are learned instead of the labels (FlexiViT section 3.5)."""

    source: str
    """Checkpoint or weight file of the run's own kind (pictures or clips), or for pictures timm:NAME of any classifier."""
    start: bool = True
    """Start from the teacher's weights, which must be of the model's architecture, where the run has no start.source."""
    temperature: float = Field(default=1.0, gt=0)
    label_weight: float = Field(default=0.0, ge=0)
    """Weight of the ordinary loss of the labels, which is added. Published: 0."""


class FlexiViTOptions(MethodOptions):
    """FlexiViT ("One Model for All Patch Sizes"), for any DeiT or TimeSformer, from scratch or from trained weights.

    The defaults are the paper's, for pictures of 240 pixels. The patch is floor(picture / grid) and what is over at the
    border is cut off, so for other pictures choose grids that divide them. `model.grids` has no effect.

    A curriculum (section 5.4) trains a model faster than always at its final size, for instance:

        curriculum:
        - {share: 0.5, weights: {8x8: 1, 10x10: 1}}
        - {share: 0.3, weights: {10x10: 1, 15x15: 2}}
        - {share: 0.2, weights: {15x15: 1}}
    """

    grids: GridNames = (30, 24, 20, 16, 15, 12, 10, 8, 6, 5)
    """Token grids of training, longest first. Each update draws one for its whole batch, on all processes."""
    weights: Weights | None = None
    """Grid -> how often it is drawn, in any unit; a grid that is not named is not drawn. Null: all alike."""
    curriculum: tuple[CurriculumStage, ...] = ()
    """Distributions one after the other, in place of `weights`."""
    seed: int | None = Field(default=None, ge=0)
    """Seed of the draws; null: run.seed."""
    evaluate_at: GridNames | None = None
    """Token grids of evaluation and reports, longest first, trained or not. Null: those of training."""
    kernel_size: int | tuple[int, int] = 32
    """Pixels per side of the underlying patch kernel."""
    position_grid: str | int = "7x7"
    """Rows and columns of the underlying position table."""
    teacher: FlexiTeacherOptions | None = None
    """Null: the labels, with the run's ordinary loss."""
    assigner: bool = False
    """Token-length labels and an assigner after the training, as for ReViT."""

    @field_validator("position_grid")
    @classmethod
    def _is_grid(cls, grid: str | int) -> str:
        return TokenGrid.parse(grid).name

    @field_validator("kernel_size")
    @classmethod
    def _is_size(cls, size: int | tuple[int, int]) -> int | tuple[int, int]:
        if min(size if isinstance(size, tuple) else (size,)) < 1:
            raise ValueError(f"a kernel of {size} pixels; give at least 1")
        return size

    @model_validator(mode="after")
    def _agree(self) -> FlexiViTOptions:
        if self.curriculum and self.weights is not None:
            raise ValueError("weights and curriculum both say what is drawn; leave one out")
        total = sum(stage.share for stage in self.curriculum)
        if self.curriculum and abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the curriculum's stages add up to {total:g}, not to 1")
        self.stages()
        return self

    def stages(self) -> tuple[Stage, ...]:
        """Return what is drawn when. Raise ValueError for a weight of no grid, or for none above 0."""
        grids, stages = longest_first(self.grids), []
        for stage in self.curriculum or (CurriculumStage(share=1.0, weights=self.weights),):
            given = dict.fromkeys(map(str, grids), 1.0) if stage.weights is None else stage.weights
            weights = {TokenGrid.parse(grid): weight for grid, weight in given.items()}
            if len(weights) < len(given):
                raise ValueError(f"weights of {', '.join(map(str, given))} name a grid twice")
            if strange := [grid.name for grid in weights if grid not in grids]:
                names = ", ".join(grid.name for grid in grids)
                raise ValueError(f"weights of {', '.join(strange)}, which are not among the grids {names}")
            if sum(weights.values()) == 0:
                raise ValueError("all weights are 0; some grid has to be drawn")
            stages.append(Stage(stage.share, grids, tuple(weights.get(grid, 0.0) for grid in grids)))
        return tuple(stages)


class OneLength:
    """A model as tasks see it, with one token grid instead of all of its own."""

    def __init__(self, model: nn.Module, grid: TokenGrid) -> None:
        self._model = model
        self.grids = (grid,)
        self.output: ModelOutput | None = None
        """Output of the last pass."""

    def __call__(self, inputs: Tensor, grid: TokenGrid | None = None, *more: Any) -> ModelOutput:
        self.output = self._model(inputs, grid or self.grids[0], *more)
        return cast(ModelOutput, self.output)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@dataclass
class FlexiTask(Task):
    """A run's ordinary task at one token grid per update, or a teacher's probabilities in the place of the labels.

    With a teacher: t^2 KL(teacher || student) at temperature t, batch mean, + label_weight * the ordinary loss. The
    paper prints the arguments of KL the other way round; its code has the teacher first. Teacher and student see the
    same augmented and mixed crop, the teacher resized to its own resolution (published: cut from the original at both).
    """

    ordinary: Task
    stages: Sequence[Stage]
    seed: int
    teacher: nn.Module | None = None
    """Normalised inputs -> logits (B, K); in evaluation mode."""
    temperature: float = 1.0
    label_weight: float = 0.0
    grid: TokenGrid | None = None
    """Grid of the present update."""

    def begin(self, progress: Progress) -> None:
        self.grid = grid_at(self.stages, self.seed, progress.update, progress.fraction)
        self.ordinary.begin(progress)

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        assert self.grid is not None, "begin comes before losses"
        one = OneLength(model, self.grid)
        if self.teacher is None:
            yield from self.ordinary.losses(cast(nn.Module, one), inputs, batch)
            return
        with torch.no_grad():
            taught = self.teacher.to(inputs.device)(inputs)
        if self.label_weight == 0:
            yield self.grid.name, divergence(one(inputs, self.grid).logits, taught, self.temperature)
            return
        for name, loss in self.ordinary.losses(cast(nn.Module, one), inputs, batch):
            assert one.output is not None
            yield name, self.label_weight * loss + divergence(one.output.logits, taught, self.temperature)


class FlexiViT(Method[FlexiViTOptions]):
    """One kernel and one position table that are resized to every grid; one grid per update."""

    options_class = FlexiViTOptions

    @property
    def wants_lengths(self) -> bool:
        return self.options.assigner

    def check(self, run: RecipeOptions) -> None:
        model: Any = run.model
        embed, is_lvvit = getattr(model, "patch_embed", None), getattr(model, "is_lvvit", False)
        positions = getattr(model, "positions", None)
        no_kernel = f"{'choose a DeiT' if is_lvvit else 'leave it out'}, or set model.patch_embed patchify"
        is_distilled = getattr(model, "distillation", None) in ("per_grid", "every_grid")
        refuse(
            {
                f"methods.flexivit resizes one patch kernel and one position table, which {run.model_name} has not; choose a "
                "DeiT or a TimeSformer, or methods.retokenize": positions is None,
                f"methods.flexivit resizes one patch kernel, which a patch embedding by {embed or 'a stem'} has not; "
                f"{no_kernel}": embed not in (None, "patchify") or (is_lvvit and embed is None),
                f"methods.flexivit has one position table of its own, and model.positions is {positions}; leave it "
                "out": positions != "separate",
                "methods.flexivit has no distillation token; choose a model without (deit_small, not deit_small_distilled) "
                "and leave out model.distillation": is_distilled or getattr(model, "is_distilled", False),
                f"model.grids {', '.join(map(str, model.grids))} are ReViT's; with methods.flexivit leave them out, its own "
                "are methods.flexivit.grids": len(model.grids) > 1,
                "methods.flexivit.teacher says which one class a sample is of, and with data.source.several_labels it may have "
                "several; leave one of them out": self.options.teacher is not None and run.data.source.several_labels,
                "methods.flexivit trains one token grid per update, which cannot be shared out: parallel.backend replicas "
                "has no work for its other processes; choose auto": run.parallel.backend == "replicas",
            }
        )

    def model_arguments(self, run: RecipeOptions) -> Mapping[str, Any]:
        options = self.options
        return {
            "patch_embed": "flexi",
            "grids": options.evaluate_at or options.grids,
            "kernel_size": options.kernel_size,
            "position_grid": options.position_grid,
            "distillation": "none",
        }

    def start(self, start: StartOptions) -> StartOptions:
        teacher = self.options.teacher
        if teacher is None or not teacher.start or start.source is not None:
            return start
        return start.model_copy(update={"source": teacher.source})

    def task(self, task: Task, model: GridModel, setting: Setting[Any]) -> Task:
        seed = setting.options.run.seed if self.options.seed is None else self.options.seed
        stages, teacher = self.options.stages(), self.options.teacher
        if teacher is None:
            return FlexiTask(task, stages, seed)
        with torch.random.fork_rng(devices=[]):  # a model is made before its weights are read
            key = "methods.flexivit.teacher.source"
            network = setting.models.teacher(setting.options, teacher.source, key)
        return FlexiTask(task, stages, seed, network, teacher.temperature, teacher.label_weight)


METHOD = FlexiViT
