"""Token Expansion's choice once more, straight from the description: one sample, one token, one pair at a time."""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.float64]


def floor_of(rate: float, number: int) -> int:
    """floor(rate * number) of the decimal number that was written."""
    return int((Decimal(str(rate)) * number).to_integral_value(ROUND_FLOOR))


def seeds_of(N: int, r0: float, rounding: str) -> list[int]:
    if rounding == "published":
        count, step = int(N * r0), int(1 // r0)
    else:
        count, step = floor_of(r0, N), int((1 / Decimal(str(r0))).to_integral_value(ROUND_FLOOR))
    chosen: list[int] = []
    for position in range(N):
        if position % step == 0 and len(chosen) < max(1, count):
            chosen.append(position)
    return chosen


def added_at(N: int, r0: float, rates: list[float], stage: int, rounding: str) -> int:
    """Tokens added at a stage, from 1."""
    if rounding == "paper":
        before = rates[stage - 2] if stage > 1 else r0
        return floor_of(rates[stage - 1], N) - floor_of(before, N)
    grown = 0.0
    for number in range(stage - 1):
        grown += rates[number] - (rates[number - 1] if number > 0 else r0)
    if stage == len(rates):
        return int(N * rates[-1]) - int(N * (r0 + grown))
    return int(N * (rates[stage - 1] - (rates[stage - 2] if stage > 1 else r0)))


def similarity(a: Tokens, b: Tokens) -> float:
    return float(a @ b) / (math.sqrt(float(a @ a)) * math.sqrt(float(b @ b)))


def table_of(tokens: Tokens) -> list[list[float]]:
    """One sample (N, D) -> the similarity of every pair."""
    return [[similarity(a, b) for b in tokens] for a in tokens]


def chosen_of(
    table: list[list[float]], r0: float, rates: list[float], stage: int, k: int, rounding: str
) -> tuple[list[int], float]:
    """One sample -> the positions in order, and how close the closest call was."""
    selected, gap = seeds_of(len(table), r0, rounding), math.inf
    for number in range(1, stage + 1):
        total = added_at(len(table), r0, rates, number, rounding)
        for repetition in range(k):
            count = total // k if repetition < k - 1 else total - (k - 1) * (total // k)
            rest = [position for position in range(len(table)) if position not in selected]
            nearest = {s: max(table[s][t] for t in selected) for s in rest}
            order = sorted(rest, key=lambda s: nearest[s])
            values = sorted(nearest.values())[: count + 1]
            gap = min([gap, *(b - a for a, b in pairwise(values))])
            selected = selected + order[:count]
    return selected, gap


def merged(tokens: Tokens, table: list[list[float]], selected: list[int]) -> tuple[Tokens, float]:
    """One sample (N, D) -> (K, D), and how close the closest call was."""
    groups, gap = {s: [s] for s in selected}, math.inf
    for position in range(len(tokens)):
        if position not in groups:
            scores = [table[position][s] for s in selected]
            best = sorted(scores)[-2:]
            gap = min(gap, best[-1] - best[0] if len(best) == 2 else math.inf)
            groups[selected[scores.index(max(scores))]].append(position)
    return np.stack([np.mean([tokens[m] for m in groups[s]], axis=0) for s in selected]), gap


def selections(config: dict[str, Any], inputs: NDArray[Any]) -> tuple[dict[str, NDArray[Any]], float]:
    """The arrays of a `toe_select` case, and the smallest difference that decided anything."""
    r0, rates, k = config["r0"], list(config["keep_rates"]), config["k"]
    P = int(config["class_token"])
    patches = inputs[:, P:].astype(np.float64)
    N = patches.shape[1]
    arrays: dict[str, NDArray[Any]] = {"seed_index": np.array(seeds_of(N, r0, "published"))}
    tables, smallest = [table_of(sample) for sample in patches], math.inf
    for stage in range(1, len(rates) + 1):
        results = [chosen_of(table, r0, rates, stage, k, "published") for table in tables]
        smallest = min(smallest, *(gap for _, gap in results))
        chosen = [positions for positions, _ in results]
        if stage == len(rates) and rates[-1] == 1.0:
            arrays[f"stage{stage}_forced_index"] = np.array(chosen)
            arrays[f"stage{stage}_tokens"] = inputs
            continue
        outputs = [merged(*one) for one in zip(patches, tables, chosen)]
        smallest = min(smallest, *(gap for _, gap in outputs))
        prefix = np.tile(np.arange(P), (len(inputs), 1))
        arrays[f"stage{stage}_index"] = np.concatenate([prefix, np.array(chosen) + P], axis=1)
        tokens = np.stack([tokens for tokens, _ in outputs])
        arrays[f"stage{stage}_tokens"] = np.concatenate([inputs[:, :P], tokens], axis=1)
    return arrays, smallest
