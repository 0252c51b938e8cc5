"""What a search found, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from revit.common.report.tables import print_table
from revit.image.search.baselines import Comparison, statistics
from revit.image.search.grow import Growth
from revit.image.search.recipe import SearchRecipe
from revit.image.search.search import Search
from revit.image.search.space import PAPER_MEANS


def print_results(recipe: SearchRecipe) -> None:
    """Tables of the search, of random topologies, and of the growth, as far as there are any."""
    if recipe.searches:
        print_searches(recipe.searches)
    if recipe.comparisons:
        print_comparisons(recipe.comparisons)
    if recipe.growth is not None:
        print_growth(recipe.growth)


def print_searches(searches: list[Search]) -> None:
    """Every choice's mean over the seeds, beside the paper's table 3."""
    rows = [
        {"choice": name, "mean": round(mean, 2), "std over mean": round(std, 2), "paper": PAPER_MEANS[name]}
        for name, (mean, std) in statistics([one.genotype for one in searches]).items()
    ]
    print_table(f"Topologies found, {len(searches)} seed(s)", _columns(rows), rows)
    for one in searches:
        if not one.complete:
            print(
                f"seed {one.seed}: cut short after {len(one.steps)} steps; the same command with a larger budget goes on"
            )


def print_comparisons(comparisons: list[Comparison]) -> None:
    """Found topologies against random ones, by the search's own measure and with weights that it has not seen."""
    rows = [
        {
            "seed": one.seed,
            "found": str(one.found),
            "score": round(one.score, 3),
            "random mean": round(sum(one.random) / len(one.random), 3),
            "random best": round(max(one.random), 3),
            "beaten %": round(100 * one.beaten, 1),
            "complexity": round(one.measured.complexity, 5),
            "(random)": round(one.mean_complexity, 5),
            "condition": round(one.measured.condition, 3),
            "(random) ": round(one.mean_condition, 3),
        }
        for one in comparisons
    ]
    print_table("Found against random topologies", _columns(rows), rows)


def print_growth(growth: Growth) -> None:
    """What every step took."""
    rows = [
        {
            "step": number,
            "genotype": str(one.genotype),
            "parameters, M": round(one.params / 1e6, 3),
            "GMACs": round(one.gmacs, 4),
            "complexity": round(one.measured.complexity, 5) if one.measured else None,
            "condition": round(one.measured.condition, 3) if one.measured else None,
        }
        for number, one in enumerate(growth.models)
    ]
    print_table("Growth" if growth.complete else "Growth, cut short", _columns(rows), rows)


def _columns(rows: Sequence[Mapping[str, object]]) -> dict[str, str]:
    return {name: name for name in rows[0]}
