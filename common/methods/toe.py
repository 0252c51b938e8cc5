"""Token Expansion (ToE): trains faster on part of the tokens, and changes nothing else.

Three steps on what block 1 put out: seeds evenly over the picture (initialisation), the tokens least like any selected one
(expansion), and everybody else averaged into the selected token most like it (merging).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from revit.common.costs.flops import Count, count
from revit.common.methods.base import Method, MethodOptions, Setting, refuse, transformer_without_reducer
from revit.common.methods.task import Progress, Task, TaskAround
from revit.common.models.base import GridModel
from revit.common.models.reducer import Reducer, Shorter, TokenLayout, rows_of
from revit.common.system.errors import UserError

Rounding = Literal["paper", "published"]


def stage_rates(first_rate: float, num_stages: int) -> tuple[float, ...]:
    """Return the share of tokens kept at each stage: from r1 in equal steps to all of them (equation 1)."""
    first, last = _exact(first_rate), max(1, num_stages - 1)
    return tuple(float(first + stage * (1 - first) / last) for stage in range(num_stages))


@dataclass(frozen=True)
class Growth:
    """Counts of tokens selected at each stage, for any number of positions N.

    Rounding "paper" keeps floor(r N) tokens at a stage of rate r, with exact arithmetic: floor(r0 N) seeds, one out of every
    floor(1 / r0) (equation 2), and at each stage the difference to floor(r N). Readings where the text contradicts itself:
    equation 2 alone would give ceil(N / step) seeds, which with equation 1 are more than floor(r N) in the end, so the list
    ends after floor(r0 N); the floor in equation 6 would lose tokens, so the last of the k repetitions takes the rest.

    "published" repeats the released code, which rounds down every step in floating point: some counts are one less (r1 0.6
    of 196: 116 / 155, not 117 / 156), and r0 0.2 gives a step of 1 // 0.2 = 4 and not 5, so that the seeds end at four
    fifths of the picture. Its last stage takes what is missing to int(r N) from what the sum of the rates before says there
    are, which need not be what there are. Both here: at least one seed (the published code fails), at most N tokens.
    """

    keep_rates: tuple[float, ...]
    """Shares r_1 ... r_Ng of tokens kept at each stage."""
    initial_rate: float
    """Share r_0 of seeds."""
    repetitions: int = 2
    """Steps k in which each stage's tokens are added; each step looks at those before (equation 6)."""
    rounding: Rounding = "paper"
    ratios: tuple[tuple[int, int], ...] = field(init=False, repr=False)
    """Rates r_0, r_1 ... as numerators and denominators: in whole numbers, so that compilers can follow the counting."""

    def __post_init__(self) -> None:
        exact = [_exact(rate) for rate in (self.initial_rate, *self.keep_rates)]
        object.__setattr__(self, "ratios", tuple((rate.numerator, rate.denominator) for rate in exact))

    @property
    def num_stages(self) -> int:
        """Number N_g of stages."""
        return len(self.keep_rates)

    def seeds(self, num_positions: int) -> range:
        """Return the positions, from 0, of the tokens selected at first."""
        if self.rounding == "published":
            count, step = int(num_positions * self.initial_rate), int(1 // self.initial_rate)
        else:
            above, below = self.ratios[0]
            count, step = num_positions * above // below, below // above
        return range(0, num_positions, min(step, num_positions))[: max(1, count)]

    def additions(self, num_positions: int, stage: int) -> list[int]:
        """Count the tokens that each repetition adds, in order, up to and with `stage` (from 1)."""
        total, steps = len(self.seeds(num_positions)), []
        for number in range(1, stage + 1):
            added = min(max(0, self._added(num_positions, number, total)), num_positions - total)
            part = added // self.repetitions
            steps += [part] * (self.repetitions - 1) + [added - part * (self.repetitions - 1)]
            total += added
        return steps

    def num_kept(self, num_positions: int, stage: int) -> int:
        """Count the tokens that go on at `stage`: all of them at the last one if its rate is 1, where nothing is computed."""
        if stage == self.num_stages and self.keep_rates[-1] == 1:
            return num_positions
        return len(self.seeds(num_positions)) + sum(self.additions(num_positions, stage))

    def _added(self, num_positions: int, stage: int, total: int) -> int:
        if self.rounding == "paper":
            above, below = self.ratios[stage]
            return num_positions * above // below - total
        rates = (self.initial_rate, *self.keep_rates)
        steps = [after - before for before, after in zip(rates, self.keep_rates)]
        if stage < self.num_stages:
            return int(num_positions * steps[stage - 1])
        before = self.initial_rate + sum(steps[:-1])
        return int(num_positions * self.keep_rates[-1]) - int(num_positions * before)


@torch.no_grad()
def select(features: Tensor, seeds: range, additions: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Select positions by features (B, S, D) -> `kept` (B, K), the seeds and then those added, and `slots` (B, S): to which of
    the K each position goes, a kept one to itself.

    Every step adds the positions whose largest cosine similarity to those selected so far is smallest, smallest first
    (equations 3 to 6). What is left goes to the selected position it is most similar to (equation 7). Of equals the
    earlier position is taken. Computed in float32 also under autocast, since bfloat16 cannot tell similar tokens apart. A
    token of zeros is similar to none (the published code divides by its length).
    """
    B = len(features)
    unit = F.normalize(features.float(), dim=2)
    kept = torch.arange(seeds.start, seeds.stop, seeds.step, device=features.device).expand(B, -1)
    # Autocast is not known on meta tensors, which are counted only.
    known = torch.amp.is_autocast_available(features.device.type)
    with torch.autocast(features.device.type, enabled=False) if known else nullcontext():
        nearest, slots = (unit @ unit[:, seeds.start : seeds.stop : seeds.step].mT).max(dim=2)  # (B, S)
        # What is selected is never the least similar, and nearest to itself.
        nearest = nearest.scatter(1, kept, math.inf)
        for count in filter(None, additions):
            added = nearest.argsort(dim=1, stable=True)[:, :count]
            similarity, place = (unit @ rows_of(unit, added).mT).max(dim=2)
            slots = torch.where(similarity > nearest, place + kept.shape[1], slots)
            nearest = torch.maximum(nearest, similarity).scatter(1, added, math.inf)
            kept = torch.cat([kept, added], dim=1)
    places = torch.arange(kept.shape[1], device=features.device).expand(B, -1)
    return kept, slots.scatter(1, kept, places)


class TokenExpansion(Reducer):
    """Before one block, in training only, keeps as many tokens as the stage of the training says and merges the rest into them.

    All prefix tokens are left alone (the published code takes a distillation token for a patch). The mean is plain, not
    weighed by how many tokens were merged, and gradients pass through it; the choice has none.

    Clips get one choice of positions for all frames, on all frames' features side by side: a mean over frames would hide
    what moves. (A space-only model runs frames as samples, so each has its own choice.) The paper has pictures only.
    """

    merges = True

    def __init__(self, growth: Growth, width: int, before_block: int = 1, evaluation_stage: int | None = None) -> None:
        """Take the stage whose tokens evaluation has; None: all tokens."""
        super().__init__()
        self.growth = growth
        self.width = width
        self.before_block = before_block
        self.evaluation_stage = evaluation_stage
        self.stage = 1
        """Stage of the training, from 1. The task sets it before every batch, so no state has to keep it."""

    def plan(self, number: int, patches: Tensor, layout: TokenLayout) -> Shorter | None:
        stage = self.stage if self.training else self.evaluation_stage
        num_positions = layout.num_positions
        if number != self.before_block or stage is None:
            return None
        if self.growth.num_kept(num_positions, stage) == num_positions:
            return None  # nothing to merge, and the order does not matter to a transformer
        additions = self.growth.additions(num_positions, stage)
        kept, slots = select(patches.flatten(2), self.growth.seeds(num_positions), additions)
        return Shorter(kept, num_positions, slots)

    def positions_per_block(self, num_positions: int, depth: int) -> list[int]:
        if self.evaluation_stage is None:
            return [num_positions] * depth
        before = min(self.before_block, depth)
        kept = self.growth.num_kept(num_positions, self.evaluation_stage)
        return [num_positions] * before + [kept] * (depth - before)

    def macs(self, num_positions: int, num_frames: int = 1) -> dict[str, float]:
        if self.evaluation_stage is None:
            return {}
        kept = self.growth.num_kept(num_positions, self.evaluation_stage)
        compared = 0 if kept == num_positions else num_positions * kept  # every position with every selected one
        return {"attention": float(compared * num_frames * self.width)}


def _exact(rate: float) -> Fraction:
    """Return the fraction that was meant: 2/5 for 0.4, 2/3 for 0.6666666666666666; one in a million for anything less."""
    return max(Fraction(rate).limit_denominator(10**6), Fraction(1, 10**6))


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
        options, block = self.options, self.options.before_block
        faults = {
            "methods.toe: tokens are merged between two blocks, and model.depth is 1; a model needs two blocks or "
            "more": depth == 1,
            f"methods.toe.before_block: {block} is no block of a model of depth {depth}, whose last is {depth - 1}; "
            f"choose from 1 to {depth - 1}": block >= depth,
        }
        refuse(faults, UserError)
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
        reducer = model.reducer
        assert isinstance(reducer, TokenExpansion)
        rates, evaluated_at = (1.0, *reducer.growth.keep_rates), reducer.evaluation_stage
        for grid in model.grids:
            counts: dict[float, Count] = {}  # one pass with all tokens, and one at each stage; the last usually has all
            for stage, rate in enumerate(rates):
                if rate not in counts:
                    reducer.evaluation_stage = stage or None
                    counts[rate] = count(model, input_shape, grid)
            whole, *stages = (counts[rate] for rate in rates)
            for what, each in (("training, all tokens", [whole]), ("training", stages)):
                factor = PASSES * BATCH / len(each)
                scale = f"{PASSES} x batch {BATCH} x mean of {len(stages)} stages"
                facts = {"grid": f"{grid} {what}", "params": whole.params}
                for rule, gmacs in (
                    ("thop, without attention products", sum(thop_gmacs(one, model) for one in each)),
                    ("attention included", sum(one.gmacs for one in each)),
                ):
                    rows.append({**facts, "gmacs": factor * gmacs, "rule": f"{rule}; {scale}"})
        reducer.evaluation_stage = evaluated_at
        return rows


def thop_gmacs(one: Count, model: GridModel) -> float:
    """Return what thop would say of a forward pass, / 1e9: layers only, no products of attention, no choice of tokens.

    It knows BatchNorm, and of LayerNorms torch's own class: LV-ViT's, not those of the published DeiT, timm's subclass.
    """
    macs = one.macs["linear"] + one.macs["convolution"]
    macs += one.macs.get("batch_norm", 0.0) * THOP_NORM / FVCORE_BATCH_NORM
    if getattr(model, "aux_head", None) is not None:
        macs += one.macs.get("layer_norm", 0.0) * THOP_NORM / FVCORE_NORM
    return macs / 1e9


METHOD = ToE
