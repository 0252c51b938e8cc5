"""DynamicViT: small predictors score the patch tokens between blocks, and the least informative are dropped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit.common.models.reducer import Decision, Reducer, Shorter, TokenLayout, Weighted

KEEP = 0
"""Column of a predictor's answer that speaks for keeping a token; the other one speaks for dropping it."""


def default_stages(depth: int) -> tuple[int, ...]:
    """Return the blocks (from 0) before which tokens are dropped: at each quarter of the depth, rounded down, as published.

    Reading for shallow models: never before block 0, in which a token first learns of the others, and not twice.
    """
    quarters = (max(1, depth * quarter // 4) for quarter in (1, 2, 3))
    return tuple(dict.fromkeys(block for block in quarters if block < depth))


def geometric_rates(keep_rate: float, num_stages: int) -> tuple[float, ...]:
    """Return rho, rho^2, ...: the share of the original positions left after each stage (supplement, section A)."""
    return tuple(keep_rate**stage for stage in range(1, num_stages + 1))


def num_kept(num_positions: int, rate: float) -> int:
    """Count the original positions left at a stage: rounded down as published, and at least one."""
    return max(1, int(num_positions * rate))


class TokenPredictor(nn.Module):
    """Log-probabilities of keeping and of dropping each token (the paper's prediction module).

    Half of a projection speaks of the token itself, the other half, averaged over the tokens still kept, of the whole
    picture. One linear layer that is split is the same function as the supplement's two. LayerNorm eps is 1e-5 even where
    the blocks have 1e-6 (published). Names are those of the published files.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_conv = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Linear(width // 2, width // 4),
            nn.GELU(),
            nn.Linear(width // 4, 2),
            nn.LogSoftmax(dim=-1),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """Score tokens (B, S, D) of which some are still kept (B, S), 1 or 0 -> (B, S, 2)."""
        features = self.in_conv(tokens)
        local, everyone = features.split([features.shape[-1] // 2, -(-features.shape[-1] // 2)], dim=-1)
        weights = keep.unsqueeze(-1)
        # The published code divides by 0 where nothing is kept any more; a count below one half is that case.
        counts = weights.sum(dim=1, keepdim=True).clamp(min=0.5)
        whole = (weights * everyone).sum(dim=1, keepdim=True) / counts
        return self.out_conv(torch.cat([local, whole.expand_as(everyone).to(local.dtype)], dim=-1))


class DynamicViTReducer(Reducer):
    """Drops patch tokens before some of the blocks, by what a predictor of each stage says of the residual stream.

    `rates`: for each of `before_blocks`, the share of the original positions that is left from there on.

    In training every token stays: each is kept or dropped by a straight-through Gumbel draw (temperature 1, hard), times
    what was decided before, and those that are dropped are not seen by the others (`Weighted`). In evaluation the
    int(S * rate) tokens that most probably are to be kept go on, in the order of that probability (`Shorter`).

    Clips get one decision for each position and all frames: the predictors look at the mean of a position's tokens over
    the frames. (Frames that run as samples, in a space-only model, are decided on one by one.)

    Differences from the published code, which has pictures only: S is the number of positions of this input, not 14 * 14;
    blocks before the first stage take the ordinary softmax, not the masked one of ones, the same to within 1e-6.
    """

    def __init__(self, width: int, before_blocks: Sequence[int], rates: Sequence[float]) -> None:
        super().__init__()
        self.before_blocks = tuple(before_blocks)
        self.rates = tuple(rates)
        self.score_predictor = nn.ModuleList(TokenPredictor(width) for _ in self.before_blocks)

    def plan(self, number: int, patches: Tensor, layout: TokenLayout) -> Decision | None:
        if number not in self.before_blocks:
            return None
        stage = self.before_blocks.index(number)
        tokens = patches.mean(dim=2) if patches.shape[2] > 1 else patches.squeeze(2)  # (B, S, D)
        before = layout.keep if layout.keep is not None else tokens.new_ones(tokens.shape[:2])
        scores: Tensor = self.score_predictor[stage](tokens, before)
        if self.training:
            decided = F.gumbel_softmax(scores, tau=1.0, hard=True, dim=-1)[..., KEEP]
            return Weighted(decided * before)
        first = layout.decisions[0] if layout.decisions else None
        num_positions = first.num_positions if isinstance(first, Shorter) else tokens.shape[1]
        order = scores[..., KEEP].argsort(dim=1, descending=True, stable=True)
        count = min(num_kept(num_positions, self.rates[stage]), tokens.shape[1])
        return Shorter(order[:, :count], tokens.shape[1])

    def positions_per_block(self, num_positions: int, depth: int) -> list[int]:
        counts, left = [], num_positions
        rates = dict(zip(self.before_blocks, self.rates))
        for number in range(depth):
            if number in rates:
                left = min(num_kept(num_positions, rates[number]), left)
            counts.append(left)
        return counts

    def macs(self, num_positions: int, num_frames: int = 1) -> dict[str, float]:
        # The predictors' linear layers, each over the positions that its stage finds; frames are averaged before.
        seen = [num_positions, *(num_kept(num_positions, rate) for rate in self.rates)]
        total = 0.0
        for predictor, count in zip(self.score_predictor, seen):
            layers = [layer for layer in predictor.modules() if isinstance(layer, nn.Linear)]
            total += count * sum(layer.weight.numel() for layer in layers)
        return {"linear": total}
