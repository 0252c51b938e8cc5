"""Results of a search for people: tables beside the paper's, and its figures 3 and 5 of our own runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from revit.common.report.tables import print_table
from revit.image.search.grow import Choice, Growth
from revit.image.search.search import Search
from revit.image.search.space import PAPER_MEANS, UNIFORM_ENTROPY, Comparison, statistics

SMOOTH = 25
"""Number of steps over which the figure averages."""


COMPARED = {
    "seed": "seed",
    "found": "found",
    "score": "score",
    "random_mean": "random mean",
    "random_best": "random best",
    "beaten": "beaten %",
    "complexity": "complexity",
    "random_complexity": "(random)",
    "condition": "condition",
    "random_condition": "(random)",
}
GROWN = {
    "step": "step",
    "genotype": "genotype",
    "params": "parameters, M",
    "gmacs": "GMACs",
    "complexity": "complexity",
    "condition": "condition",
}


def print_results(searches: Sequence[Search], comparisons: Sequence[Comparison], growth: Growth | None) -> None:
    """Print tables of the search, of random topologies, and of the growth, as far as there are any."""
    if searches:
        found = statistics([one.genotype for one in searches])
        rows = [
            {"choice": name, "mean": mean, "std over mean": std, "paper": PAPER_MEANS[name]}
            for name, (mean, std) in found.items()
        ]
        print_table(f"Topologies found, {len(searches)} seed(s)", {name: name for name in rows[0]}, rows)
    for search in searches:
        if not search.complete:
            print(
                f"seed {search.seed}: cut short after {len(search.steps)} steps; the same command with a larger budget "
                "goes on"
            )
    if comparisons:
        rows = [{**one.record(), "beaten": 100 * one.beaten} for one in comparisons]
        print_table("Found against random topologies", COMPARED, rows)
    if growth is not None:
        rows = [
            {**one.record(), "step": number, "params": one.params / 1e6} for number, one in enumerate(growth.models)
        ]
        print_table("Growth" if growth.complete else "Growth, cut short", GROWN, rows)


def draw_searches(searches: Sequence[Search], path: Path) -> None:
    """Draw the policy's entropy, and the sum of the rewards so far (each is a change, so the sum is the climb), step by step
    with one line for each seed, as PNG."""
    figure, left, right = _two_axes()
    for search in searches:
        entropies = [step.entropy for step in search.steps]
        left.plot(range(1, len(entropies) + 1), entropies, label=f"seed {search.seed}")
        rewards = np.cumsum([step.reward for step in search.steps])
        if width := min(SMOOTH, len(rewards)):
            smooth = np.convolve(rewards, np.ones(width) / width, "valid")
            right.plot(range(width, len(rewards) + 1), smooth)
    left.axhline(UNIFORM_ENTROPY, color="grey", linestyle=":", linewidth=1)
    left.set(xlabel="step", ylabel="entropy of the policy (nats)", title="Search")
    left.legend()
    right.axhline(0, color="grey", linestyle=":", linewidth=1)
    right.set(xlabel="step", ylabel=f"sum of the rewards, mean of {SMOOTH} steps")
    _save(figure, path)


def draw_growth(growth: Growth, others: Sequence[Growth], path: Path) -> None:
    """Draw depth against width as models grow, with random growths in grey; and complexity against the NTK's condition, where
    the numbers are steps. PNG."""
    figure, left, right = _two_axes()
    for other in others:
        left.plot(*_sizes(other.models), color="lightgrey", linewidth=1)
    if others:
        left.plot([], [], color="lightgrey", label="random")
    left.plot(*_sizes(growth.models), "o-", markersize=3, label="by rank")
    left.set(xlabel="total depth", ylabel="total width", title="Growth")
    left.legend()
    known = [one.measured for one in growth.models if one.measured is not None and not one.measured.failed]
    if places := [(one.complexity, one.condition) for one in known]:
        right.plot(*zip(*places), "o-", markersize=3, linewidth=0.8)
    for number, place in enumerate(places):
        right.annotate(str(number), place, textcoords="offset points", xytext=(3, 3), fontsize=7)
    right.set(xlabel="complexity (higher is better)", ylabel="condition of the NTK (lower is better)")
    _save(figure, path)


def _sizes(models: Sequence[Choice]) -> tuple[list[int], list[int]]:
    """Return numbers of blocks, and sums of the widths of all blocks."""
    genotypes = [model.genotype for model in models]
    widths = [sum(depth * dim for depth, dim in zip(one.depths, one.dims)) for one in genotypes]
    return [sum(one.depths) for one in genotypes], widths


def _two_axes() -> tuple[Any, Any, Any]:
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    return figure, *figure.subplots(1, 2)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    temporary = path.with_name(f".{path.name}.part")
    figure.savefig(temporary, format="png", dpi=120)
    temporary.replace(path)
