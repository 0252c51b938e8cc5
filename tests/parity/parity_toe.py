"""The family of Token Expansion's choice: no network, tokens in, positions and merged tokens out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from parity_cases import Answer, Case
from torch import Tensor

from revit.common.methods.toe import Growth, TokenExpansion, select
from revit.common.models.grid import TokenGrid
from revit.common.models.reducer import Shorter, TokenLayout

DERIVED = {
    *("N_patch_tokens", "N_g", "seed_tokens", "seed_step", "tokens_added_per_repetition_in_order", "stages"),
    *("class_token", "distance"),
}
"""What a case says beside r0, k and the rates of its stages."""


def growth_of(config: Mapping[str, Any]) -> Growth:
    """The published counts of a case. ValueError if it asks for what nothing here has."""
    unknown = set(config) - DERIVED - {"r0", "keep_rates", "k"}
    if unknown or config.get("distance", "cosine") != "cosine":
        raise ValueError(f"no token expansion here has {', '.join(sorted(unknown)) or config['distance']}")
    return Growth(tuple(config["keep_rates"]), config["r0"], config["k"], "published")


@torch.no_grad()
def selections(case: Case) -> Answer:
    """`toe_select`: for every stage the tokens after merging, and the positions they come from; the seeds."""
    config, growth = case.config, growth_of(case.config)
    tokens, P = case.input(), int(config.get("class_token", True))
    N = tokens.shape[1] - P
    if config.get("N_patch_tokens", N) != N or config.get("N_g", growth.num_stages) != growth.num_stages:
        raise ValueError("the input or the rates contradict the case's numbers")
    seeds = growth.seeds(N)
    arrays: dict[str, Tensor] = {"seed_index": torch.tensor(list(seeds))}
    reducer = TokenExpansion(growth, tokens.shape[2])
    layout = TokenLayout(TokenGrid(1, N), num_prefix=P, num_positions=N)
    for stage in range(1, growth.num_stages + 1):
        reducer.stage = stage
        arrays[f"stage{stage}_tokens"], after = reducer(1, tokens, layout)
        for decision in after.decisions:
            assert isinstance(decision, Shorter)
            prefix = torch.arange(P).expand(len(tokens), -1)
            arrays[f"stage{stage}_index"] = torch.cat([prefix, decision.kept + P], dim=1)
        forced, _ = select(tokens[:, P:], seeds, growth.additions(N, stage))
        arrays[f"stage{stage}_forced_index"] = forced
    return Answer(None, arrays)
