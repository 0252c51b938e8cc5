"""The paper's figures, of our own runs: entropy and reward of a search (figure 5), and a growth (figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from revit.image.search.grow import Choice, Growth
from revit.image.search.search import Search
from revit.image.search.space import UNIFORM_ENTROPY

SMOOTH = 25
"""Steps over which the figure averages."""


def draw_searches(searches: Sequence[Search], path: Path) -> None:
    """Entropy of the policy, and the sum of the rewards so far (each is a change, so the sum is the climb), step by step; one
    line for each seed. PNG."""
    figure, (left, right) = _figure(2)
    for search in searches:
        entropies = [step.entropy for step in search.steps]
        left.plot(range(1, len(entropies) + 1), entropies, label=f"seed {search.seed}")
        rewards = np.cumsum([step.reward for step in search.steps])
        width = min(SMOOTH, len(rewards))
        if width:
            smooth = np.convolve(rewards, np.ones(width) / width, "valid")
            right.plot(range(width, len(rewards) + 1), smooth)
    left.axhline(UNIFORM_ENTROPY, color="grey", linestyle=":", linewidth=1)
    left.set(xlabel="step", ylabel="entropy of the policy (nats)", title="Search")
    left.legend()
    right.axhline(0, color="grey", linestyle=":", linewidth=1)
    right.set(xlabel="step", ylabel=f"sum of the rewards, mean of {SMOOTH} steps")
    _save(figure, path)


def draw_growth(growth: Growth, others: Sequence[Growth], path: Path) -> None:
    """Left: depth against width as models grow, with random growths in grey. Right: complexity against the NTK's condition,
    the numbers are steps. PNG."""
    figure, (left, right) = _figure(2)
    for other in others:
        left.plot(*_sizes(other.models), color="lightgrey", linewidth=1)
    if others:
        left.plot([], [], color="lightgrey", label="random")
    left.plot(*_sizes(growth.models), "o-", markersize=3, label="by rank")
    left.set(xlabel="total depth", ylabel="total width", title="Growth")
    left.legend()
    taken = [one for one in growth.models if one.measured is not None and not one.measured.failed]
    measured = [(one.measured.complexity, one.measured.condition) for one in taken if one.measured]
    if measured:
        right.plot(*zip(*measured), "o-", markersize=3, linewidth=0.8)
        for number, place in enumerate(measured):
            right.annotate(str(number), place, textcoords="offset points", xytext=(3, 3), fontsize=7)
    right.set(xlabel="complexity (higher is better)", ylabel="condition of the NTK (lower is better)")
    _save(figure, path)


def _sizes(models: Sequence[Choice]) -> tuple[list[int], list[int]]:
    """Blocks, and the sum of the widths of all blocks."""
    genotypes = [model.genotype for model in models]
    widths = [sum(depth * dim for depth, dim in zip(one.depths, one.dims)) for one in genotypes]
    return [sum(one.depths) for one in genotypes], widths


def _figure(columns: int) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(1, columns, figsize=(5 * columns, 3.6), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    temporary = path.with_name(f".{path.name}.part")
    figure.savefig(temporary, format="png", dpi=120)
    temporary.replace(path)
    pyplot.close(figure)
