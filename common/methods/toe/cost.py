"""What one training iteration costs with Token Expansion: as its paper counts it, and with attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from revit.common.costs.flops import Count, count
from revit.common.methods.toe.reducer import TokenExpansion
from revit.common.models.base import GridModel
from revit.common.models.grid import TokenGrid

BATCH = 1024
"""Of the paper's tables."""
PASSES = 3
"""A forward pass and a backward pass that costs twice as much."""
THOP_NORM, FVCORE_NORM, FVCORE_BATCH_NORM = 4, 5, 2
"""Operations that thop counts for each number that a norm with scale and shift puts out, and fvcore for LayerNorm and for
BatchNorm."""


def training_rows(model: GridModel, input_shape: Sequence[int]) -> list[dict[str, Any]]:
    """For each grid of a model whose reducer is a TokenExpansion four rows: all tokens and ToE, each by two rules.

    "gmacs" is for one iteration, 1e9 multiply-accumulates, which the paper calls GFLOPs (tables 2 and 3).
    """
    rows: list[dict[str, Any]] = []
    for grid in model.grids:
        whole, *stages = _counts(model, input_shape, grid)
        for what, each in (("training, all tokens", [whole]), ("training", stages)):
            scale = f"{PASSES} x batch {BATCH} x mean of {len(stages)} stages"
            factor = PASSES * BATCH / len(each)
            facts = {"grid": f"{grid} {what}", "params": whole.params}
            by_thop = factor * sum(thop_gmacs(one, model) for one in each)
            rows.append({**facts, "gmacs": by_thop, "rule": f"thop, without attention products; {scale}"})
            honest = factor * sum(one.gmacs for one in each)
            rows.append({**facts, "gmacs": honest, "rule": f"attention included; {scale}"})
    return rows


def thop_gmacs(one: Count, model: GridModel) -> float:
    """What thop would say of a forward pass, / 1e9: layers only, so no products of attention, and no choice of tokens.

    It knows BatchNorm, and of LayerNorms torch's own class: LV-ViT's are counted, those of the published DeiT, which are
    timm's subclass, are not.
    """
    macs = one.macs["linear"] + one.macs["convolution"]
    macs += one.macs.get("batch_norm", 0.0) * THOP_NORM / FVCORE_BATCH_NORM
    if getattr(model, "aux_head", None) is not None:
        macs += one.macs.get("layer_norm", 0.0) * THOP_NORM / FVCORE_NORM
    return macs / 1e9


def _counts(model: GridModel, input_shape: Sequence[int], grid: TokenGrid) -> list[Count]:
    """One forward pass with all tokens, and one at each stage."""
    reducer = model.reducer
    assert isinstance(reducer, TokenExpansion)
    evaluated_at = reducer.evaluation_stage
    counts: dict[float, Count] = {}
    stages = [None, *range(1, reducer.growth.num_stages + 1)]
    rates = [1.0, *reducer.growth.keep_rates]
    try:
        for stage, rate in zip(stages, rates):
            if rate not in counts:  # the last stage usually has all tokens
                reducer.evaluation_stage = stage
                counts[rate] = count(model, input_shape, grid)
    finally:
        reducer.evaluation_stage = evaluated_at
    return [counts[rate] for rate in rates]
