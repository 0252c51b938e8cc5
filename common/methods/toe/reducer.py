"""Token Expansion (ToE): training on part of the tokens, chosen so that their features lie as widely apart as all of them.

Three steps on what block 1 put out: seeds evenly over the picture (initialisation), the tokens least like any selected
one (expansion), and everybody else averaged into the selected token most like it (merging).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from revit.common.models.reducer import Reducer, Shorter, TokenLayout, rows_of

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
    with _no_autocast(features.device):
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


def _no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    known = torch.amp.is_autocast_available(device.type)  # not on meta tensors, which are counted only
    return torch.autocast(device.type, enabled=False) if known else nullcontext()
