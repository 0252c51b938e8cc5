"""Token Expansion (ToE): trains faster on part of the tokens, and changes nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator

from revit.common.costs.flops import Count, count
from revit.common.methods.base import Method, MethodOptions, Setting, refuse, transformer_without_reducer
from revit.common.methods.task import Progress, Task, TaskAround
from revit.common.methods.toe.reducer import Growth, Rounding, TokenExpansion, stage_rates
from revit.common.models.base import GridModel
from revit.common.models.grid import TokenGrid
from revit.common.system.errors import UserError

Rate = Annotated[float, Field(gt=0, le=1)]
StageRule = Literal["updates", "epochs"]
ROUNDED = 1e-9
"""Rounding error of shares of a training, which are quotients of whole numbers."""
BATCH = 1024
"""Batch size of the paper's tables."""
PASSES = 3
"""Cost of an iteration in forward passes: one, and a backward pass that costs twice as much."""
THOP_NORM, FVCORE_NORM, FVCORE_BATCH_NORM = 4, 5, 2
"""Operations for each number that a norm with scale and shift puts out: in thop, and in fvcore for both kinds of norm."""


class ToEOptions(MethodOptions):
    """Token Expansion ("A General and Efficient Training for Transformer via Token Expansion"), for any DeiT, LV-ViT or
    TimeSformer, from scratch or fine-tuned, with the hyper-parameters of ordinary training.

    It has no weights and is off in evaluation, so what it trains is a plain model. With several token grids each reduces
    its own positions.
    """

    first_rate: Rate = 0.5
    """Share r1 of patch tokens kept at the first stage. The paper's rows: 0.4, 0.5, 0.6."""
    initial_rate: Rate | None = None
    """Share r0 of the tokens that the choice starts from, evenly over the picture. Null: r1 / 2, as in the paper."""
    num_stages: int = Field(default=3, ge=1)
    """Stages N_g of equal length; the share kept rises in equal steps to all tokens at the last one."""
    keep_rates: Annotated[tuple[Rate, ...], Field(min_length=1)] | None = None
    """Share kept at each stage, in place of first_rate and num_stages, e.g. [0.5, 0.75, 1.0]."""
    repetitions: int = Field(default=2, ge=1)
    """Steps k in which the tokens of a stage are added. More choose better and take longer."""
    rounding: Rounding = "paper"
    """paper: floor(rate * N) tokens, exactly. published: the released code's floating-point counts, for the paper's measured
    rows; they differ from the paper's formulas by one token in places (rates 0.4 and 0.6), and in the seeds of rate 0.2."""
    stage_rule: StageRule = "updates"
    """updates: stage ceil(N_g * t / T) at update t of T (the paper's algorithm 1). epochs: by whole epochs, the first third
    of them, and so on (the released code's 0, 100 and 200 of 300). The same wherever N_g divides the epochs, and none cool
    down."""
    before_block: int = Field(default=1, ge=1)
    """Block (the first is 0) whose input is reduced. The paper compares others (table 8) and takes 1."""
    evaluation_stage: int | None = Field(default=None, ge=1)
    """Evaluate with the tokens of this stage, which costs accuracy. Null: with all tokens, as in the paper."""

    @model_validator(mode="after")
    def _agree(self) -> ToEOptions:
        for key, what in (("first_rate", "what is kept"), ("num_stages", "how many stages there are")):
            if key in self.model_fields_set and self.keep_rates is not None:
                raise ValueError(f"{key} and keep_rates both say {what}; leave one out")
        rates = (self.growth.initial_rate, *self.growth.keep_rates)
        if list(rates) != sorted(rates):
            raise ValueError(f"the rates {', '.join(f'{rate:g}' for rate in rates)} fall; tokens are only added")
        if self.evaluation_stage is not None and self.evaluation_stage > self.growth.num_stages:
            raise ValueError(f"evaluation_stage {self.evaluation_stage} of {self.growth.num_stages} stages")
        return self

    @property
    def growth(self) -> Growth:
        """Counts of tokens that each stage keeps."""
        rates = self.keep_rates or stage_rates(self.first_rate, self.num_stages)
        initial = rates[0] / 2 if self.initial_rate is None else self.initial_rate
        return Growth(rates, initial, self.repetitions, self.rounding)


@dataclass
class ToETask(TaskAround):
    """Another task's losses, with the model's reducer at the stage that belongs to each update."""

    reducer: TokenExpansion
    rule: StageRule
    epochs: int
    """Epochs of the schedule."""
    cooldown_epochs: int = 0
    """Epochs after it. By epochs they belong to the last stage (published: 0, 100 and 200 of 300, and then 10)."""
    forget_compiled: bool = False
    """Drop what was compiled for a stage when it is over: compilers give up after a number of shapes."""

    def begin(self, progress: Progress) -> None:
        stage = self.stage_at(progress)
        if self.forget_compiled and stage != self.reducer.stage:
            torch.compiler.reset()
        self.reducer.stage = stage
        super().begin(progress)

    def stage_at(self, progress: Progress) -> int:
        """Return the stage of an update, from 1."""
        num_stages = self.reducer.growth.num_stages
        if self.rule == "updates":
            share = progress.fraction if progress.after is None else progress.after
            stage = math.ceil(num_stages * share - ROUNDED)
        else:
            epoch = math.floor((self.epochs + self.cooldown_epochs) * progress.fraction + ROUNDED)
            stage = num_stages * epoch // self.epochs + 1
        return min(max(stage, 1), num_stages)


class ToE(Method[ToEOptions]):
    """A reducer in training, and a task that tells it the stage."""

    options_class = ToEOptions

    def attach(self, model: GridModel) -> None:
        depth = len(transformer_without_reducer(model, "toe", "merges").blocks)
        block = self.options.before_block
        faults = {
            "methods.toe: tokens are merged between two blocks, and model.depth is 1; a model needs two blocks or "
            "more": depth == 1,
            f"methods.toe.before_block: {block} is no block of a model of depth {depth}, whose last is {depth - 1}; "
            f"choose from 1 to {depth - 1}": block >= depth,
        }
        refuse(faults, UserError)
        options = self.options
        model.reducer = TokenExpansion(options.growth, model.embed_dim, block, options.evaluation_stage)

    def task(self, task: Task, model: GridModel, setting: Setting[Any]) -> Task:
        assert isinstance(model.reducer, TokenExpansion)
        run = setting.options
        epochs, cooldown = run.train.schedule.epochs, run.train.schedule.cooldown_epochs
        return ToETask(task, model.reducer, self.options.stage_rule, epochs, cooldown, run.parallel.compile)

    def cost_rows(self, model: GridModel, input_shape: Sequence[int]) -> list[dict[str, Any]]:
        """Count one training iteration for each grid, with all tokens and with ToE: by the paper's rule, and honestly.

        "gmacs" is 1e9 multiply-accumulates, which the paper calls GFLOPs (tables 2 and 3).
        """
        rows: list[dict[str, Any]] = []
        for grid in model.grids:
            whole, *stages = _counts(model, input_shape, grid)
            for what, each in (("training, all tokens", [whole]), ("training", stages)):
                factor = PASSES * BATCH / len(each)
                scale = f"{PASSES} x batch {BATCH} x mean of {len(stages)} stages"
                facts = {"grid": f"{grid} {what}", "params": whole.params}
                by_thop = factor * sum(thop_gmacs(one, model) for one in each)
                rows.append({**facts, "gmacs": by_thop, "rule": f"thop, without attention products; {scale}"})
                honest = factor * sum(one.gmacs for one in each)
                rows.append({**facts, "gmacs": honest, "rule": f"attention included; {scale}"})
        return rows


def thop_gmacs(one: Count, model: GridModel) -> float:
    """Return what thop would say of a forward pass, / 1e9: layers only, no products of attention, no choice of tokens.

    It knows BatchNorm, and of LayerNorms torch's own class: LV-ViT's are counted, those of the published DeiT, which are
    timm's subclass, are not.
    """
    macs = one.macs["linear"] + one.macs["convolution"]
    macs += one.macs.get("batch_norm", 0.0) * THOP_NORM / FVCORE_BATCH_NORM
    if getattr(model, "aux_head", None) is not None:
        macs += one.macs.get("layer_norm", 0.0) * THOP_NORM / FVCORE_NORM
    return macs / 1e9


def _counts(model: GridModel, input_shape: Sequence[int], grid: TokenGrid) -> list[Count]:
    """Count one forward pass with all tokens, and one at each stage."""
    reducer = model.reducer
    assert isinstance(reducer, TokenExpansion)
    evaluated_at = reducer.evaluation_stage
    counts: dict[float, Count] = {}
    rates = [1.0, *reducer.growth.keep_rates]
    try:
        for stage, rate in enumerate(rates):
            if rate not in counts:  # the last stage usually has all tokens
                reducer.evaluation_stage = stage or None
                counts[rate] = count(model, input_shape, grid)
    finally:
        reducer.evaluation_stage = evaluated_at
    return [counts[rate] for rate in rates]


METHOD = ToE
