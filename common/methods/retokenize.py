"""Progressive re-tokenisation: fewer tokens early in training, from the same weights (As-ViT section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from revit.common.config.options import Options
from revit.common.costs.flops import Count, count
from revit.common.methods.base import Method, MethodOptions, Setting, refuse
from revit.common.methods.task import Progress, Task, TaskAround
from revit.common.models.base import GridModel
from revit.common.models.embed.patches import ReTokenizing
from revit.common.system.errors import UserError

if TYPE_CHECKING:
    from revit.common.methods.run_options import RecipeOptions


PUBLISHED_COSTS: Mapping[int, float] = {1: 1.0, 2: 0.285, 4: 0.132}
"""Times the stride -> relative cost of As-ViT-Large as its figure 4 has it, from which the savings of table 6 follow. How
the authors treat maps of an odd side is not known; counted with such maps rounded up, coarse tokens cost less than that."""


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

    phases: tuple[Phase, ...] = Field(default=(Phase(until=0.4, coarser=4), Phase(until=0.7, coarser=2)), min_length=1)
    """Phases in order; the learning rate and everything else go on as if nothing happened (paper)."""

    @model_validator(mode="after")
    def _in_order(self) -> RetokenizeOptions:
        if any(later.until <= earlier.until for earlier, later in pairwise(self.phases)):
            ends = ", ".join(f"{phase.until:g}" for phase in self.phases)
            raise ValueError(f"phases end at {ends}; every phase must end after the one before")
        return self

    def saving(self, relative_costs: Mapping[int, float]) -> float:
        """Return the share of the training's cost that is saved; `relative_costs`: factor of the stride -> cost, 1 for factor 1."""
        begins = (0.0, *(phase.until for phase in self.phases))
        shares = (phase.until - begin for begin, phase in zip(begins, self.phases))
        return sum(share * (1 - relative_costs[phase.coarser]) for share, phase in zip(shares, self.phases))

    def coarser_at(self, fraction: float) -> int:
        """Return the factor of the stride after this share of the training."""
        return next((phase.coarser for phase in self.phases if fraction < phase.until), 1)


@dataclass
class RetokenizeTask(TaskAround):
    """A run's ordinary task, with the patch embedding told how coarse it is to be."""

    embed: ReTokenizing
    options: RetokenizeOptions

    def begin(self, progress: Progress) -> None:
        self.embed.coarser = self.options.coarser_at(progress.fraction)
        super().begin(progress)


class Retokenize(Method[RetokenizeOptions]):
    """Tells the patch embedding, by the progress of the training, how many tokens to make."""

    options_class = RetokenizeOptions

    def check(self, run: RecipeOptions) -> None:
        embed = getattr(run.model, "patch_embed", None)
        stem = "a stem" if getattr(run.model, "is_lvvit", False) and embed is None else embed
        faults = {
            f"methods.retokenize widens the stride of one convolution, which a patch embedding by {stem} is not; choose "
            "model.patch_embed patchify, or an As-ViT": stem not in (None, "patchify"),
            "methods.retokenize and methods.flexivit both say how many tokens a picture has; leave one out": "flexivit"
            in run.methods,
        }
        refuse(faults)

    def attach(self, model: GridModel) -> None:
        longest = model.grids[0]
        most = max(phase.coarser for phase in self.options.phases)
        if most >= max(longest.rows, longest.cols):
            raise UserError(
                f"methods.retokenize.phases: {most} times the stride makes one token of {longest}; choose less"
            )

    def task(self, task: Task, model: GridModel, setting: Setting[Any]) -> Task:
        embed = model.get_submodule("patch_embed")
        assert isinstance(embed, ReTokenizing), "check() lets no other patch embedding through"
        return RetokenizeTask(task, embed, self.options)

    def cost_rows(self, model: GridModel, input_shape: Sequence[int]) -> list[dict[str, Any]]:
        """Count a sample in each phase and on average over the training, forward pass, at the longest grid."""
        embed = model.get_submodule("patch_embed")
        assert isinstance(embed, ReTokenizing)
        costs: dict[int, Count] = {}
        for coarser in (1, *(phase.coarser for phase in self.options.phases)):
            with embed.held_at(coarser):
                costs[coarser] = count(model, input_shape, model.grids[0])
        facts = {"params": costs[1].params}
        rows = []
        for coarser, one in costs.items():
            if coarser > 1:
                name = f"{model.grids[0]}, stride x {coarser}"
                rows.append({**facts, "grid": name, "gmacs": one.gmacs, "rule": "one forward pass"})
        ours = {coarser: one.gmacs / costs[1].gmacs for coarser, one in costs.items()}
        rules: dict[str, Mapping[int, float]] = {"own counts, a map of an odd side rounded up": ours}
        if set(ours) <= set(PUBLISHED_COSTS):
            rules["the relative costs of As-ViT-Large in its figure 4"] = PUBLISHED_COSTS
        for rule, relative in rules.items():
            saved = self.options.saving(relative)
            mean = (1 - saved) * costs[1].gmacs
            text = f"mean over the training by {rule}: {saved:.1%} saved"
            rows.append({**facts, "grid": f"{model.grids[0]} training", "gmacs": mean, "rule": text})
        return rows


METHOD = Retokenize
