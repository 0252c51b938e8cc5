"""DynamicViT: train a model to do without most of its patch tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from revit.common.config.sections import GroupOptions, OptimOptions
from revit.common.data.batch import Batch
from revit.common.methods.base import Method, MethodOptions, Setting, refuse, transformer_without_reducer
from revit.common.methods.dynamicvit.reducer import DynamicViTReducer, default_stages, geometric_rates
from revit.common.methods.revit.task import SelfDistillation
from revit.common.methods.task import Task
from revit.common.models.base import GridModel, ModelOutput
from revit.common.system.errors import UserError

if TYPE_CHECKING:
    from revit.common.methods.run_options import RecipeOptions


def ratio_loss(decisions: Sequence[Tensor], rates: Sequence[float]) -> Tensor:
    """Square how far each sample's share of kept tokens is from its stage's rate; the mean over stages and batch -> scalar.

    decisions: per stage (B, S), 1 or 0, gradients pass; rates: per stage, of the original S.
    """
    errors = [(decided.float().mean(dim=1) - rate).square().mean() for decided, rate in zip(decisions, rates)]
    return sum(errors[1:], errors[0]) / len(errors)


def token_error(tokens: Tensor, teacher_tokens: Tensor, keep: Tensor) -> Tensor:
    """Average the squared error (B, N, D) over the channels of the tokens that `keep` (B, N) has at 1 -> scalar, 0 for none."""
    errors = (tokens.float() - teacher_tokens.detach().float()).square().mean(dim=-1)
    return _mean_over_kept(errors, keep)


def token_divergence(logits: Tensor, teacher_logits: Tensor, keep: Tensor) -> Tensor:
    """Average KL(teacher || student) of logits (B, N, K) over the tokens that `keep` (B, N) has at 1 -> scalar, 0 for none."""
    student, teacher = (F.log_softmax(one.float(), dim=-1) for one in (logits, teacher_logits.detach()))
    divergences = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
    return _mean_over_kept(divergences, keep)


def _mean_over_kept(values: Tensor, keep: Tensor) -> Tensor:
    # Which tokens count is no matter of gradients: otherwise the loss would fall by dropping those that differ.
    kept = (keep.detach() > 0.5).to(values.dtype)
    return (values * kept).sum() / kept.sum().clamp(min=1)


@dataclass
class DynamicViTTask(Task):
    """Cross entropy + ratio_weight * ratio loss + distill_weight * (class divergence + token term), one backward pass.

    The token term looks at the tokens that are kept in the end: the mean squared error of the features after the final
    norm (DeiT, TimeSformer), or, where patches have a head of their own, the divergence of its logits (LV-ViT). As
    published, LV-ViT is trained by its class head alone: no MixToken and no token labels.
    """

    supervised: SelfDistillation
    """Gives the loss of the labels."""
    rates: tuple[float, ...]
    ratio_weight: float = 2.0
    distill_weight: float = 0.5
    teacher: nn.Module | None = None
    """Sees the same normalised batch; frozen, in evaluation mode."""
    parts: dict[str, Tensor] = field(default_factory=dict, compare=False)
    """Losses of the last batch, without their weights."""

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        output: ModelOutput = model(inputs)
        taught: ModelOutput | None = None
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher.to(inputs.device)(inputs)
        grid = cast(GridModel, model).grids[0]
        yield grid.name, self.total(output, taught, batch.targets)

    def total(self, output: ModelOutput, taught: ModelOutput | None, targets: Tensor) -> Tensor:
        """Sum the losses for outputs of student and teacher, targets (B,) or (B, K) -> scalar."""
        assert output.reduction is not None, "the model has no reducer"
        decisions = output.reduction.weights
        labels = self.supervised.supervised(output, targets)
        parts = {"labels": labels, "ratio": ratio_loss(decisions, self.rates)}
        loss = labels + self.ratio_weight * parts["ratio"]
        if taught is not None:
            parts["classes"] = self.supervised.labels.divergence(output.logits.float(), taught.logits.float())
            parts["tokens"] = self.token_term(output, taught, decisions[-1])
            loss = loss + self.distill_weight * (parts["classes"] + parts["tokens"])
        self.parts = {name: part.detach() for name, part in parts.items()}
        return loss

    @staticmethod
    def token_term(output: ModelOutput, taught: ModelOutput, keep: Tensor) -> Tensor:
        """Compare the tokens of student and teacher at the positions kept in the end (B, S) -> scalar."""
        assert output.patch_features is not None
        assert taught.patch_features is not None
        if output.patch_logits is not None and taught.patch_logits is not None:
            return token_divergence(output.patch_logits, taught.patch_logits, keep)
        B, N = output.patch_features.shape[:2]
        if len(keep) > B:
            # Frames that ran as samples were averaged position by position: what any of them keeps counts.
            keep = keep.unflatten(0, (B, -1)).amax(dim=1)
        keep = keep.repeat_interleave(N // keep.shape[1], dim=1)  # time is the fastest axis
        return token_error(output.patch_features, taught.patch_features, keep)


Rate = Annotated[float, Field(gt=0, le=1)]
PREDICTORS = "reducer.score_predictor."
"""Beginning of the names of the predictors' parameters."""


class DynamicViTOptions(MethodOptions):
    """DynamicViT ("Efficient Vision Transformers with Dynamic Token Sparsification").

    It is meant to start from a trained model, `start.source`, which then teaches as well: the defaults are the published
    schedule. Where a run has no `start.source`, what only makes sense for a trained model is off: all parameters are
    trained at the same rate from the first epoch, and nobody teaches. `train.optim.groups` in the YAML take the place of
    the groups made here.
    """

    keep_rate: Rate | tuple[Rate, ...] = 0.7
    """Share rho of the patch tokens left after the first stage; rho^2 after the second, and so on. A list: after each stage."""
    before_blocks: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Blocks (the first is 0) before which tokens are dropped. Null: three stages at the quarters of the depth, which
    is 3, 6, 9 for a depth of 12, as published, and fewer stages at a depth below 4."""
    ratio_weight: float = Field(default=2.0, ge=0)
    """Weight of the loss that keeps the drawn shares near the rates. Published: 2, for DeiT-B 5."""
    distill_weight: float = Field(default=0.5, ge=0)
    """Weight of the teacher's class probabilities, and of its tokens."""
    teacher: Literal["start", "none"] | None = None
    """start: the model training starts from, frozen, with all its tokens. Null: that, where there is a start.source, else none."""
    backbone_lr_scale: float = Field(default=0.01, ge=0)
    """Learning rate of all but the predictors, times that of the predictors. Without start.source 1."""
    frozen_epochs: float = Field(default=5, ge=0)
    """Epochs in which the predictors alone are trained. Without start.source 0."""
    train_tokens: bool = False
    """Train class token and position table too. The published code never does. Without start.source true."""

    @field_validator("before_blocks")
    @classmethod
    def _rising(cls, blocks: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if blocks is not None and (not blocks or sorted(set(blocks)) != list(blocks)):
            raise ValueError(f"{list(blocks)} are no blocks in rising order")
        return blocks

    @field_validator("keep_rate")
    @classmethod
    def _falling(cls, rate: float | tuple[float, ...]) -> float | tuple[float, ...]:
        if rate == ():
            raise ValueError("an empty list; give one rate, or one for each stage")
        if isinstance(rate, tuple) and sorted(rate, reverse=True) != list(rate):
            raise ValueError(f"{list(rate)}: what is dropped stays dropped, so later stages keep no more")
        return rate

    @model_validator(mode="after")
    def _agree(self) -> DynamicViTOptions:
        if isinstance(self.keep_rate, tuple) and self.before_blocks is not None:
            _check_stages(self.keep_rate, self.before_blocks)
        return self


class DynamicViT(Method[DynamicViTOptions]):
    """Predictors before some of the blocks, their losses, and a schedule that trains them first."""

    options_class = DynamicViTOptions
    published_names: ClassVar[Mapping[str, str]] = MappingProxyType({"score_predictor.": PREDICTORS})

    @classmethod
    def found_in(cls, names: Collection[str]) -> DynamicViT | None:
        # With the defaults: the rate is not in the weights.
        return cls(DynamicViTOptions()) if any(name.startswith(PREDICTORS) for name in names) else None

    @property
    def assumption(self) -> str:
        return f"DynamicViT with a keep_rate of {self.options.keep_rate}"

    def check(self, run: RecipeOptions) -> None:
        names = ", ".join(grid.name for grid in run.grids)
        epochs, frozen = run.train.schedule.total_epochs, self.options.frozen_epochs
        no_start, defaults = run.start.source is None, DynamicViTOptions()
        keys = ("backbone_lr_scale", "frozen_epochs", "train_tokens")
        changed = [key for key in keys if getattr(self.options, key) != getattr(defaults, key)]
        refuse(
            {
                f"methods.dynamicvit drops tokens of one grid, and the model has {names}; leave one in "
                "model.grids": len(run.grids) > 1,
                "methods.dynamicvit trains LV-ViT by its class head alone; leave out data.token_labels": getattr(
                    run.data, "token_labels", None
                )
                is not None,
                "methods.dynamicvit has a teacher of its own, start.source; leave out distill.teacher": getattr(
                    run.distill, "teacher", None
                )
                is not None,
                "methods.dynamicvit.teacher start is the model of start.source, and there is none; give one, or teacher "
                "none": self.options.teacher == "start" and no_start,
                f"methods.dynamicvit.frozen_epochs {frozen:g} leaves nothing of {epochs} epochs to train the backbone in; "
                "lower it, or train longer": not no_start and not run.train.optim.groups and frozen >= epochs,
                f"methods.dynamicvit.{' and '.join(changed)}: of a trained model, and there is no start.source; leave "
                "it out, or set train.optim.groups": no_start and bool(changed),
            }
        )

    def attach(self, model: GridModel) -> None:
        depth = len(transformer_without_reducer(model, "dynamicvit", "drops").blocks)
        blocks, rates = self.options.before_blocks or default_stages(depth), self.options.keep_rate
        faults = {
            f"methods.dynamicvit: a model of depth {depth} has no block between two others, before which tokens could be "
            "dropped; raise model.depth": not blocks,
            f"methods.dynamicvit.before_blocks: {list(blocks)} are not all blocks of a model of depth {depth}, whose last "
            f"is {depth - 1}; choose among 0 to {depth - 1}": max(blocks, default=0) >= depth,
        }
        refuse(faults, UserError)
        if isinstance(rates, tuple):
            _check_stages(rates, blocks, "methods.dynamicvit: ", UserError)
        else:
            rates = geometric_rates(rates, len(blocks))
        model.reducer = DynamicViTReducer(model.embed_dim, blocks, rates)

    def task(self, task: Task, model: GridModel, setting: Setting[Any]) -> Task:
        run = setting.options
        assert isinstance(model.reducer, DynamicViTReducer)
        wanted = self.options.teacher or ("none" if run.start.source is None else "start")
        return DynamicViTTask(
            setting.models.distillation(run),
            model.reducer.rates,
            self.options.ratio_weight,
            self.options.distill_weight,
            self._teacher(setting) if wanted == "start" else None,
        )

    def _teacher(self, setting: Setting[Any]) -> nn.Module:
        """Load the model of start.source with all its tokens. Raise UserError if it knows other classes."""
        run, models = setting.options, setting.models
        others = {name: options for name, options in run.methods.items() if options is not self.options}
        plain = run.model_copy(update={"methods": others})
        assert run.start.source is not None
        with torch.random.fork_rng(devices=[]):
            teacher = models.build_model(plain, len(models.label_names(run)))
            report = models.start(teacher, plain, run.start.source)
        if report.remade:
            raise UserError(
                f"{run.start.source} cannot teach: {'; '.join(report.remade)}. Train it on these classes first and start from "
                "the result, or set methods.dynamicvit.teacher=none"
            )
        return teacher.eval().requires_grad_(False)

    def optim(self, optim: OptimOptions, run: RecipeOptions) -> OptimOptions:
        # The predictors at the full rate, the backbone slower and frozen at first, tokens and tables as they are.
        if optim.groups or run.start.source is None:
            return optim
        slow = {"lr_scale": self.options.backbone_lr_scale, "frozen_epochs": self.options.frozen_epochs}
        groups = [GroupOptions(match=PREDICTORS.replace(".", r"\."))]
        if not self.options.train_tokens:
            groups.append(GroupOptions(match=r"(cls_token|dist_token|pos_embed)\b", lr_scale=0))
        groups.append(GroupOptions(match="", **slow))
        return optim.model_copy(update={"groups": tuple(groups)})


def _check_stages(
    rates: Sequence[float], blocks: Sequence[int], where: str = "", error: type[Exception] = ValueError
) -> None:
    text = f"keep_rate has {len(rates)} entries for {len(blocks)} stages, before blocks {list(blocks)}"
    refuse({f"{where}{text}; give one for each": len(rates) != len(blocks)}, error)


METHOD = DynamicViT
