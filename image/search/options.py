"""The configuration of a search, `kind: asvit_search`: how to measure, search, grow and train the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from typing_extensions import Self

from revit.common.config.options import Options
from revit.image.models.genotype import SEED_TOPOLOGY, SEED_WIDTH, Genotype
from revit.image.options import ImageData, ImageRun
from revit.image.search.complexity import Measure, Radius, Thetas

Window = Literal["recent", "all"]
Ties = Literal["measure", "published"]


class MeasureOptions(Options):
    """Complexity and condition of the NTK of an untrained network. Defaults: the published code's.

    In the paper's words: radius sqrt_n, thetas open, redraw all; the rest is the same.
    """

    complexity: Measure = "length"
    """length distortion (the paper's choice), curvature, length_curvature (the paper's definition) or
    length_curvature_published (what the published code computes by that name)."""
    repeats: int = Field(default=5, ge=1)
    """Random initialisations, over which both measures are averaged."""
    thetas: int = Field(default=10, ge=1)
    """Points of the circle."""
    theta_grid: Thetas = "closed"
    radius: Radius = "unit"
    redraw: Literal["all", "linear"] = "linear"
    """Weights that a repeat draws anew: all, or those of linear layers only, with one stem convolution for all repeats."""
    pictures: int = Field(default=16, ge=2)
    """Training pictures of the NTK, not augmented: the first batch of the shuffled list."""


class BudgetOptions(Options):
    """Limits that cut a search or a growth short, with the result so far; the same command with a larger budget goes on."""

    steps: int | None = Field(default=None, ge=1)
    """Steps in all."""
    minutes: float | None = Field(default=None, gt=0)
    """Minutes of this start of the program."""


class SearchOptions(Options):
    """Policy gradient over the topologies of table 1."""

    steps: int = Field(default=500, ge=1)
    lr: float = Field(default=0.08, gt=0)
    """Learning rate of Adam on the policy's logits."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (8,)
    """Seeds of the policy and of the networks drawn, one search for each; what is grown is the first one's result."""
    width: int = Field(default=SEED_WIDTH, ge=8)
    """C of the topologies measured."""
    window: Window = "recent"
    """Values whose range normalises a reward: the last 20 (published code) or all so far (paper)."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of the baseline, a moving average of the rewards."""
    budget: BudgetOptions = BudgetOptions()

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} has one twice; leave it out")
        return self


class GrowOptions(Options):
    """Growth in depth and width, step by step, up to a number of parameters (algorithm 2). Defaults: the published code's."""

    topology: str | None = None
    """A genotype to grow instead of what the search found."""
    seed: int = Field(default=27, ge=0)
    start_width: int = Field(default=8, ge=8)
    """C of the networks that are measured, at the start. (The paper starts at 32.)"""
    times: int = Field(default=4, ge=1)
    """Width of the networks that are counted and kept, as a multiple of the measured width."""
    ratios: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (0.05, 0.1, 0.15, 0.2)
    """Shares by which a step may widen; widths that round to the same number are one choice."""
    max_params: float = Field(default=110e6, gt=0)
    """Largest number of parameters of a choice."""
    stop_params: float = Field(default=80e6, gt=0)
    """Number of parameters at which the growth ends. (The paper: 100 million.)"""
    num_classes: int = Field(default=1000, ge=1)
    """Classes of the head that is counted."""
    ties: Ties = "measure"
    """Choices with the same sum of ranks: the measure with the larger relative range decides, the better value wins; or
    `published`: of the first two, the smaller value of that measure, which for complexity is the worse one. The paper
    names no rule."""
    budget: BudgetOptions = BudgetOptions()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.stop_params > self.max_params:
            raise ValueError(
                f"stop_params {self.stop_params:g} is above max_params {self.max_params:g}: no model could have so many; "
                "lower it"
            )
        if self.topology is not None:
            Genotype.parse(self.topology)
        return self


class BaselineOptions(Options):
    """Random topologies and growths to compare with."""

    topologies: int = Field(default=0, ge=0)
    """Random topologies, measured like the found one with weights that the search has not seen; the paper trained 87."""
    growths: int = Field(default=0, ge=0)
    """Growths whose every step is drawn among the choices; the paper's figure 3 shows 10."""
    seed: int = Field(default=1, ge=0)


class SearchRunOptions(Options):
    """Folder and processes of the search."""

    dir: str
    seed: int = Field(default=0, ge=0)
    """Seed of the choice of training pictures that the NTK sees."""
    num_workers: int = Field(default=2, ge=0)
    """Processes with one compute thread each; 0 measures in this one. The results are the same."""
    resume: Literal["auto", "never"] = "auto"
    """Use what was measured in this folder before, or measure everything again."""


class AsViTSearchRun(Options):
    """Search, grow, and train what was found."""

    kind: Literal["asvit_search"] = "asvit_search"
    data: ImageData
    """Pictures as in an image run; their size is that at which networks are measured."""
    measure: MeasureOptions = MeasureOptions()
    search: SearchOptions = SearchOptions()
    grow: GrowOptions | None = GrowOptions()
    """Null: the topology is the result."""
    baselines: BaselineOptions = BaselineOptions()
    train: dict[str, Any] | None = None
    """An image run without kind and data, with which the result is trained; null: nothing is trained. `model` needs no name
    and no genotype, `run` no folder."""
    run: SearchRunOptions

    @model_validator(mode="after")
    def _train_fits(self) -> Self:
        try:
            self.image_run(SEED_TOPOLOGY)
        except ValidationError as error:
            found = "; ".join(
                f"train.{'.'.join(str(key) for key in item['loc'])}: {item['msg']}"
                for item in error.errors(include_url=False)
            )
            raise ValueError(found) from None
        height, width = self.data.pixels.size
        if height % 32 or width % 32:
            raise ValueError(
                f"data.pixels.img_size {self.data.pixels.img_size}: the last of the four maps has a 32nd of each side; choose "
                "a multiple of 32"
            )
        if self.grow is not None and self.baselines.growths and self.grow.budget.steps is not None:
            raise ValueError("baselines.growths are compared with a whole growth; remove grow.budget.steps")
        return self

    @property
    def folder(self) -> Path:
        return Path(self.run.dir)

    def image_run(self, genotype: Genotype) -> ImageRun:
        """Return the image run that trains `genotype` and names the pictures. ValidationError for what does not fit."""
        given = dict(self.train or {})
        if taken := [key for key in ("kind", "data") if key in given]:
            raise ValueError(f"train.{taken[0]}: is the search's own; leave it out")
        model = {"name": "asvit_seed", "genotype": str(genotype), **(given.get("model") or {})}
        folder = self.folder / "trained" if self.train is not None else self.folder
        run = {"seed": self.run.seed, "evaluate_every": None, **(given.get("run") or {}), "dir": str(folder)}
        return ImageRun.model_validate({**given, "data": self.data, "model": model, "run": run})
