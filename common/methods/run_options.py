"""The top level of a configuration, as far as pictures and clips agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from revit.common.config.options import NotedOptions, Options, with_present_names
from revit.common.config.sections import (
    BalanceOptions,
    OptimOptions,
    ParallelOptions,
    RunOptions,
    ScheduleOptions,
    StartOptions,
    TestOptions,
    TrainOptions,
)
from revit.common.data.options import SourceOptions
from revit.common.methods.base import Method, MethodOptions, known_methods, unknown_method
from revit.common.methods.revit.budget import Budget
from revit.common.models.grid import GridNames, TokenGrid, longest_first


class DistillOptions(Options):
    """Token-length-aware self-distillation (ReViT equation 1)."""

    weight: float = Field(default=0.9, ge=0, le=1)
    """Weight of the teacher's distribution in the loss of the shorter grids (lambda); 0: none."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of both distributions (tau)."""
    hard: bool = False
    """Teacher's most probable class as the target, in place of its distribution."""


class LengthOptions(NotedOptions):
    """Token-length labels, read off the trained model."""

    later = ("folds",)
    split: Literal["train", "val", "test"] = "train"
    """List whose samples are labelled. The paper takes train; the model has over-fitted it, so a held-out list gives less
    skewed labels."""
    none_correct: Literal["longest", "shortest", "drop"] = "longest"
    """Label of a sample that no grid recognises; drop leaves it out."""
    folds: int = Field(default=0, ge=0)
    """Parts of the training list, files of one source in one part. Each part is labelled by a model that was trained by the same
    recipe on the others, as the run's own model knows its training samples by heart: so many trainings more. 0: by the run's
    model."""

    @model_validator(mode="after")
    def _can_be_held_out(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds 1 leaves nothing to train on; set it to 2 or more, or to 0")
        if self.folds and self.split != "train":
            raise ValueError(f"folds are parts of the training list, and split is {self.split}; remove one of the two")
        return self


class AssignerOptions(Options):
    """The Token-Length Assigner and its training."""

    size: int = Field(default=112, ge=16)
    """Side of its square input, in pixels."""
    num_frames: int = Field(default=1, ge=1)
    """Frames of a clip that it sees, evenly spread."""
    width: float = Field(default=0.5, gt=0)
    """Channels, as a multiple of EfficientNet-B0's."""
    depth: float = Field(default=0.5, gt=0)
    """Blocks, as a multiple of EfficientNet-B0's."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the features before its head that training drops."""
    balanced: bool = True
    """Weights of the labels in the loss against their frequency."""
    confidence: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] | None = None
    """Least probability that a grid suffices; the shortest such grid is taken. auto: the least that loses no more than
    `calibration.max_drop`, found by the calibration. Null: the most probable grid, as in the paper."""
    mirror: bool = True
    """Left-right mirrored inputs in its training: an input needs as many tokens in a mirror, even where its class changes."""
    train: TrainOptions = TrainOptions(
        batch_size=64,
        optim=OptimOptions(name="adamw", lr=1e-3, weight_decay=0.05, decay_one_dimensional=False),
        schedule=ScheduleOptions(name="cosine", epochs=5, warmup_epochs=1),
    )


class CalibrationOptions(NotedOptions):
    """Measurement of what the assigner's thresholds cost and gain, so that `model.budget` can choose between them."""

    later = ("max_drop", "drop_assigner")
    split: Literal["train", "val", "test"] = "val"
    """List to measure on: like the inputs to come, and new to model and assigner. Without it there is no calibration."""
    points: int = Field(default=41, ge=3, le=1001)
    """Number of operating points, at evenly spaced costs."""
    max_drop: float = Field(default=0.5, ge=0, le=100)
    """Points of top-1 on this list that `assigner.confidence: auto` may lose against the longest grid for all."""
    drop_assigner: bool = False
    """One grid for all inputs, and no assigner, where that is at least as accurate on this list and costs no more. The checkpoint
    says which and why; a budget still asks the assigner."""


class DataOptions(Options):
    """Samples from lists and folders, or a data set that the project makes itself."""

    source: SourceOptions = SourceOptions()
    demo: Options | None = None
    """Make the demo data set under RUN_DIR/data and use its lists, instead of `source`."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        lists = [name for name in ("train", "val", "test", "label_names") if getattr(self.source, name) is not None]
        if self.demo is not None and lists:
            raise ValueError(f"demo makes its own lists; remove source.{', source.'.join(lists)} or demo")
        return self


class GridModelOptions(Options):
    """What every model can be told. The size of its inputs is the data's."""

    grids: GridNames
    """Token grids of a picture or frame, longest first; several make it a ReViT."""
    num_classes: int | None = Field(default=None, ge=1)
    """Null: as many as the data has. A number is checked against the data."""
    budget: str | None = None
    """What an input may cost in the mean when lengths are assigned: gmacs:X or ms:X of a view, or drop:X points of top-1 below
    the longest grid. Wants a calibrated checkpoint, whose curve it is looked up in. Null: as `assigner.confidence` says."""

    @field_validator("budget")
    @classmethod
    def _is_a_budget(cls, budget: str | None) -> str | None:
        return None if budget is None else str(Budget.parse(budget))


class ModelOptions(GridModelOptions):
    """What a transformer that cuts every picture or frame into patches can be told."""

    grids: GridNames = ("14x14",)
    """Token grids of a picture or frame, longest first; several make it a ReViT."""
    stem_widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None
    """Widths of the early convolutions of patch_embed stem; all but the last halve the picture."""
    positions: Literal["separate", "shared_zero_pad", "shared_interpolate"] = "separate"
    """A position table for each grid, or one for all (ablation)."""
    position_resize: Literal["bicubic", "nearest", "nearest_flat"] = "bicubic"
    pos_std: float = Field(default=0.02, ge=0)
    """Spread of the position tables at the start."""
    linear_std: float = Field(default=0.02, gt=0)
    """Spread of the linear weights at the start; a narrow model from scratch wants about embed_dim ** -0.5."""


class RecipeOptions(NotedOptions):
    """A whole run. A package narrows `data` and `model` to its own."""

    later = ("balance",)
    kind: str
    data: DataOptions
    model: GridModelOptions = ModelOptions()
    methods: dict[str, SerializeAsAny[MethodOptions]] = Field(default={})
    """Ways to spend fewer tokens beside ReViT's lengths, by name: `flexivit`, `dynamicvit`, `toe`, `retokenize`; null
    takes a method's defaults, false leaves it out."""
    start: StartOptions = StartOptions()
    train: TrainOptions = TrainOptions()
    distill: DistillOptions = DistillOptions()
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    balance: BalanceOptions = BalanceOptions()
    lengths: LengthOptions = LengthOptions()
    assigner: AssignerOptions = AssignerOptions()
    calibration: CalibrationOptions | None = CalibrationOptions()
    """Null: none, and so no budgets."""
    test: TestOptions = TestOptions()
    run: RunOptions
    parallel: ParallelOptions = ParallelOptions()

    @property
    def makes_data(self) -> bool:
        """Whether the project makes the data set itself, as a stage of its own."""
        return self.data.demo is not None

    @property
    def active_methods(self) -> list[Method[Any]]:
        """The methods that this run names."""
        known = known_methods()
        return [known[name](options) for name, options in self.methods.items()]

    @property
    def grids(self) -> tuple[TokenGrid, ...]:
        """Token grids of the model, longest first."""
        grids: tuple[str | int, ...] = self.model.grids
        for method in self.active_methods:
            grids = method.model_arguments(self).get("grids", grids)
        return longest_first(grids)

    @property
    def has_lengths(self) -> bool:
        """Whether the model runs at several token lengths and wants labels and an assigner."""
        return len(self.grids) > 1 and all(method.wants_lengths for method in self.active_methods)

    @property
    def method_name(self) -> str:
        """What the run does to spend fewer tokens: "revit" for several lengths with an assigner, and its methods."""
        return " + ".join([*(["revit"] if self.has_lengths else []), *self.methods]) or "plain"

    @property
    def model_name(self) -> str:
        """What the model is called, where models of this kind have names."""
        return str(getattr(self.model, "name", None) or self.kind)

    @classmethod
    def members(cls, field: str) -> Mapping[str, type[Options]]:
        """Return the options of every known method, for the field `methods`."""
        if field != "methods":
            return {}
        return {name: method.options_class for name, method in known_methods().items()}

    @model_validator(mode="before")
    @classmethod
    def _take_former_names(cls, values: Any) -> Any:
        return with_present_names(values) if isinstance(values, dict) else values

    @field_validator("methods", mode="before")
    @classmethod
    def _read_methods(cls, value: Any) -> Any:
        """Every method's settings by its own class; what is wrong in them is reported with its key."""
        if not isinstance(value, dict):
            return value
        known, read, problems = known_methods(), {}, []
        for name, settings in value.items():
            if name not in known:
                wrong = PydanticCustomError("unknown_method", "{text}", {"text": unknown_method(str(name))})
                problems.append(InitErrorDetails(type=wrong, loc=(name,), input=name))
                continue
            if settings is False:
                continue
            if settings is None or settings is True:
                settings = {}
            try:
                read[name] = known[name].options_class.model_validate(settings)
            except ValidationError as error:
                problems += [
                    InitErrorDetails(
                        type=PydanticCustomError(item["type"], "{text}", {"text": item["msg"]}),
                        loc=(name, *item["loc"]),
                        input=item["input"],
                    )
                    for item in error.errors(include_url=False)
                ]
        if problems:
            raise ValidationError.from_exception_data("methods", problems)
        return read

    @property
    def wants_calibration(self) -> bool:
        """Whether what answers where nobody asks for a budget is for the calibration to find."""
        found = self.calibration is not None and self.calibration.drop_assigner
        return self.has_lengths and (found or self.assigner.confidence == "auto")

    @model_validator(mode="after")
    def _can_be_calibrated(self) -> Self:
        if self.assigner.confidence == "auto" and self.calibration is None:
            raise ValueError(
                "assigner.confidence is auto, which the calibration finds; set calibration to {}, or give a number"
            )
        return self

    @model_validator(mode="after")
    def _methods_fit(self) -> Self:
        for method in self.active_methods:
            method.check(self)
        return self
