"""Recipe of a search: topologies, growth, baselines, the training of what was found; tables and figures beside the paper's."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from revit.common.config.load import dump
from revit.common.evaluation.adaptive import versions
from revit.common.report.tables import print_table
from revit.common.system.errors import UserError
from revit.common.system.files import locked, write_json, write_text
from revit.common.system.log import RunLog, progress
from revit.common.system.processes import StopRequest
from revit.common.training.recipe import Recipe
from revit.common.training.run_folder import LOCK
from revit.image.modality import ImageModality
from revit.image.models.genotype import SEED_TOPOLOGY, Genotype
from revit.image.search.grow import Choice, Growth, GrowthStep, at_random, by_rank, grow
from revit.image.search.measure import Evaluations, Measurer
from revit.image.search.options import AsViTSearchRun, GrowOptions
from revit.image.search.search import PAPER_MEANS, UNIFORM_ENTROPY, Search, Step, compare, search, statistics

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


def print_results(searches: Sequence[Search], comparisons: Sequence[dict[str, Any]], growth: Growth | None) -> None:
    """Print tables of the search, of random topologies, and of the growth, as far as there are any."""
    if searches:
        found = statistics([one.genotype for one in searches])
        rows = [
            {"choice": name, "mean": mean, "std over mean": std, "paper": PAPER_MEANS[name]}
            for name, (mean, std) in found.items()
        ]
        print_table(f"Topologies found, {len(searches)} seed(s)", {name: name for name in rows[0]}, rows)
    for one in searches:
        if not one.complete:
            print(
                f"seed {one.seed}: cut short after {len(one.steps)} steps; the same command with a larger budget "
                "goes on"
            )
    if comparisons:
        rows = [{**one, "beaten": 100 * one["share_beaten"]} for one in comparisons]
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
    for one in searches:
        entropies = [step.entropy for step in one.steps]
        left.plot(range(1, len(entropies) + 1), entropies, label=f"seed {one.seed}")
        rewards = np.cumsum([step.reward for step in one.steps])
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


class SearchRecipe:
    """Runs a search under its `run.dir`: search.json, growth.json, genotype.txt, config.yaml, PNG figures, a log of every
    step as JSON lines, and measures.jsonl, with which the same command goes on."""

    def __init__(self, options: AsViTSearchRun) -> None:
        self.options = options
        self.folder = options.folder
        self.modality = ImageModality()
        self.searches: list[Search] = []
        self.comparisons: list[dict[str, Any]] = []
        self.growth: Growth | None = None

    def run(self) -> Genotype:
        """Search, grow and train; return the genotype found. UserError; Stopped if asked to end."""
        options, file = self.options, self.folder / "measures.jsonl"
        with StopRequest().listening(), locked(self.folder / LOCK, "another process works in this folder"):
            write_text(self.folder / "config.yaml", dump(options))
            measurer = Measurer(options.measure, self.pictures())
            if options.run.resume == "never":
                file.unlink(missing_ok=True)
            with Evaluations(measurer, file, options.run.num_workers) as evaluations:
                found = self._find(evaluations)
            write_text(self.folder / "genotype.txt", f"{found}\n")
        if options.train is not None:
            Recipe(options.image_run(found), self.modality).run()
        return found

    def pictures(self) -> Tensor:
        """Return the first batch (B, C, H, W) of training pictures, normalised, not augmented."""
        run, wanted = self.options.image_run(SEED_TOPOLOGY), self.options.measure.pictures
        self.modality.make_data(run)
        batch = next(iter(self.modality.assigner_loader(run, "train", wanted)))
        if len(batch) < wanted:
            raise UserError(f"measure.pictures is {wanted}, but the training list has {len(batch)}; lower it")
        return self.modality.normalizer(run)(batch.inputs)

    def _find(self, evaluations: Evaluations) -> Genotype:
        options, growing = self.options, self.options.grow
        if growing is not None and growing.topology is not None:
            found = Genotype.parse(growing.topology)
        else:
            for seed in options.search.seeds:
                self.searches.append(self._search(evaluations, seed))
                self._write_search()
            if options.baselines.topologies:
                self._compare(evaluations)
                self._write_search()
            found = self.searches[0].genotype
        if growing is None:
            return found
        self.growth = self._grow(evaluations, growing, found)
        return self.growth.models[-1].genotype

    def _search(self, evaluations: Evaluations, seed: int) -> Search:
        options, log = self.options.search, self._fresh_log(f"search_seed{seed}.jsonl")
        with progress(f"search, seed {seed}", options.steps) as bar:

            def report(step: Step) -> None:
                log.write("step", seed=seed, **step.record())
                bar(note=f"entropy {step.entropy:.2f}  reward {step.reward:+.2f}")

            with evaluations.within(options.budget.minutes):
                return search(options, seed, evaluations, report)

    def _compare(self, evaluations: Evaluations) -> None:
        baselines, width = self.options.baselines, self.options.search.width
        with progress("random topologies", len(self.searches)) as bar:
            for draw, one in enumerate(self.searches, baselines.seed):
                self.comparisons.append(compare(one.genotype, one.seed, baselines.topologies, draw, width, evaluations))
                bar()

    def _write_search(self) -> None:
        rows = [
            {
                "seed": one.seed,
                "genotype": str(one.genotype),
                "complete": one.complete,
                "steps": len(one.steps),
                "entropy": one.steps[-1].entropy if one.steps else None,
            }
            for one in self.searches
        ]
        content = {
            "genotype": rows[0]["genotype"],
            "complete": all(one.complete for one in self.searches)
            and len(self.searches) == len(self.options.search.seeds),
            "searches": rows,
            "statistics": {
                name: {"mean": mean, "std_over_mean": std, "paper_mean": PAPER_MEANS[name]}
                for name, (mean, std) in statistics([one.genotype for one in self.searches]).items()
            },
            "random": self.comparisons,
            "versions": versions(),
        }
        write_json(self.folder / "search.json", content)
        draw_searches(self.searches, self.folder / "search.png")

    def _grow(self, evaluations: Evaluations, options: GrowOptions, found: Genotype) -> Growth:
        baselines, sides = self.options.baselines, self.options.data.pixels.size
        log, number = self._fresh_log("growth.jsonl"), itertools.count(1)
        with progress("growth", None) as bar, evaluations.within(options.budget.minutes):

            def report(step: GrowthStep) -> None:
                log.write("step", step=next(number), **step.record())
                params = step.choice.params / 1e6
                bar(note=f"{params:.2f} of {options.stop_params / 1e6:g} M parameters")

            growth = grow(options, found, sides, by_rank(options, evaluations), report)
        draws = range(baselines.seed, baselines.seed + baselines.growths)
        others = [grow(options, found, sides, at_random(draw)) for draw in draws]
        ends = [other.models[-1] for other in others]
        measured = evaluations([one.narrow for one in ends], options.seed)
        random = [
            {**end.record(), **one.record(), "models": [str(model.genotype) for model in other.models]}
            for end, one, other in zip(ends, measured, others)
        ]
        content = {"genotype": str(growth.models[-1].genotype), **growth.record(), "random": random}
        write_json(self.folder / "growth.json", content)
        draw_growth(growth, others, self.folder / "growth.png")
        return growth

    def _fresh_log(self, name: str) -> RunLog:
        """Return an empty log: what was done before is written again in no time."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        return RunLog(path)
