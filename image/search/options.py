"""What can be chosen about measuring, searching and growing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from revit.common.config.options import Options
from revit.image.models.genotype import SEED_WIDTH, Genotype
from revit.image.search.complexity import Measure, Radius, Thetas
from revit.image.search.reward import Window

Redraw = Literal["all", "linear"]
"""What a repeat draws anew: every weight, or those of linear layers only, with one stem convolution for all repeats."""
Ties = Literal["measure", "published"]


class MeasureOptions(Options):
    """How the complexity and the NTK's condition of an untrained network are measured. Defaults: the published code's.

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
    redraw: Redraw = "linear"
    pictures: int = Field(default=16, ge=2)
    """Training pictures of the NTK, not augmented: the first batch of the shuffled list."""


class BudgetOptions(Options):
    """What cuts a search or a growth short, with the result so far; the same command with a larger budget goes on."""

    steps: int | None = Field(default=None, ge=1)
    """Steps in all."""
    minutes: float | None = Field(default=None, gt=0)
    """Of this start of the program."""


class SearchOptions(Options):
    """Policy gradient over the topologies of table 1."""

    steps: int = Field(default=500, ge=1)
    lr: float = Field(default=0.08, gt=0)
    """Of Adam, on the policy's logits."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (8,)
    """One search for each, of the policy and of the networks drawn; what is grown is the first one's result."""
    width: int = Field(default=SEED_WIDTH, ge=8)
    """C of the topologies measured."""
    window: Window = "recent"
    """Rewards are normalised by the range of the last 20 values (published code) or of all so far (paper)."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of the baseline, a moving average of the rewards."""
    budget: BudgetOptions = BudgetOptions()

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} has one twice; leave it out")
        return self


class GrowOptions(Options):
    """Deeper and wider, step by step, until a number of parameters (algorithm 2). Defaults: the published code's."""

    topology: str | None = None
    """A genotype to grow instead of what the search found."""
    seed: int = Field(default=27, ge=0)
    start_width: int = Field(default=8, ge=8)
    """C of the networks that are measured, at the start. (The paper starts at 32.)"""
    times: int = Field(default=4, ge=1)
    """Parameters and cost are those of the network of this many times the measured width, which is what is kept."""
    ratios: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (0.05, 0.1, 0.15, 0.2)
    """By how much a step may widen; widths that round to the same number are one choice."""
    max_params: float = Field(default=110e6, gt=0)
    """A choice with more is not considered."""
    stop_params: float = Field(default=80e6, gt=0)
    """The growth ends with the first model that has as many. (The paper: 100 million.)"""
    num_classes: int = Field(default=1000, ge=1)
    """Of the head that is counted."""
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
    """What search and growth are compared with."""

    topologies: int = Field(default=0, ge=0)
    """Random topologies, measured like the found one with weights that the search has not seen; the paper trained 87."""
    growths: int = Field(default=0, ge=0)
    """Growths whose every step is drawn among the choices; the paper's figure 3 shows 10."""
    seed: int = Field(default=1, ge=0)


class SearchRunOptions(Options):
    """Where results go and how they are made."""

    dir: str
    seed: int = Field(default=0, ge=0)
    """Which training pictures the NTK sees."""
    num_workers: int = Field(default=2, ge=0)
    """Processes with one compute thread each; 0 measures in this one. The results are the same."""
    resume: Literal["auto", "never"] = "auto"
    """Use what was measured in this folder before, or measure everything again."""
