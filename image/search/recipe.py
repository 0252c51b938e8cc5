"""The whole of a search: topologies, growth, baselines, figures, and the training of what was found."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from revit.common.config.load import dump
from revit.common.evaluation.adaptive import versions
from revit.common.system.errors import UserError
from revit.common.system.files import locked, write_json, write_text
from revit.common.system.log import RunLog, progress
from revit.common.system.stop import StopRequest
from revit.common.training.recipe import Recipe
from revit.common.training.stages import LOCK
from revit.image.modality import ImageModality
from revit.image.models.genotype import SEED_TOPOLOGY, Genotype
from revit.image.search.baselines import Comparison, compare, statistics
from revit.image.search.evaluations import Evaluations
from revit.image.search.figures import draw_growth, draw_searches
from revit.image.search.grow import Growth, GrowthStep, grow, grow_at_random
from revit.image.search.measure import Measurer
from revit.image.search.run_options import AsViTSearchRun
from revit.image.search.search import Search, Step, search
from revit.image.search.space import PAPER_MEANS


class SearchRecipe:
    """Runs a search under its `run.dir`: search.json, growth.json, genotype.txt, config.yaml, PNG figures, a log of every
    step as JSON lines, and measures.jsonl, with which the same command goes on."""

    def __init__(self, options: AsViTSearchRun) -> None:
        self.options = options
        self.folder = options.folder
        self.stop = StopRequest()
        self.modality = ImageModality()
        self.growth: Growth | None = None
        self.searches: list[Search] = []
        self.comparisons: list[Comparison] = []

    def run(self) -> Genotype:
        """Everything; returns what was found. UserError; Stopped if asked to end, and the same command goes on."""
        refusal = "another process works in this folder"
        with self.stop.listening(), locked(self.folder / LOCK, refusal):
            write_text(self.folder / "config.yaml", dump(self.options))
            found = self._find()
            write_text(self.folder / "genotype.txt", f"{found}\n")
        if self.options.train is not None:
            Recipe(self.options.image_run(found), self.modality).run()
        return found

    def pictures(self) -> Tensor:
        """(B, C, H, W) normalised training pictures, not augmented: the first batch."""
        run, wanted = self.options.image_run(SEED_TOPOLOGY), self.options.measure.pictures
        self.modality.make_data(run)
        batch = next(iter(self.modality.assigner_loader(run, "train", wanted)))
        if len(batch) < wanted:
            raise UserError(f"measure.pictures is {wanted}, but the training list has {len(batch)}; lower it")
        return self.modality.normalizer(run)(batch.inputs)

    # -- parts -------------------------------------------------------------------------------------------------------

    def _find(self) -> Genotype:
        options, start = self.options, time.perf_counter()
        file = self.folder / "measures.jsonl"
        measurer = Measurer(options.measure, self.pictures())
        if options.run.resume == "never":
            file.unlink(missing_ok=True)
        with Evaluations(measurer, file, options.run.num_workers) as evaluations:
            for seed in options.search.seeds if self._searches() else ():
                self.searches.append(self._search(evaluations, seed))
                self._write_search()
            if options.baselines.topologies:
                self._compare(evaluations)
                self._write_search()
            found = self._topology()
            if options.grow is not None:
                with self._within(evaluations, options.grow.budget.minutes):
                    self.growth = self._grow(evaluations, found)
                self._write_growth(evaluations, found)
                found = self.growth.models[-1].genotype
        self.seconds = time.perf_counter() - start
        return found

    def _searches(self) -> bool:
        return self.options.grow is None or self.options.grow.topology is None

    def _topology(self) -> Genotype:
        grow = self.options.grow
        if grow is not None and grow.topology is not None:
            return Genotype.parse(grow.topology)
        return self.searches[0].genotype

    def _search(self, evaluations: Evaluations, seed: int) -> Search:
        options = self.options.search
        log = self._fresh_log(f"search_seed{seed}.jsonl")
        with progress(f"search, seed {seed}", options.steps) as bar:

            def heard(step: Step) -> None:
                log.write("step", seed=seed, **step.record())
                bar(note=f"entropy {step.entropy:.2f}  reward {step.reward:+.2f}")

            with self._within(evaluations, options.budget.minutes):
                return search(options, seed, evaluations, heard)

    def _compare(self, evaluations: Evaluations) -> None:
        baselines, width = self.options.baselines, self.options.search.width
        with progress("random topologies", len(self.searches)) as bar:
            for number, one in enumerate(self.searches):
                draw = baselines.seed + number
                self.comparisons.append(
                    compare(one.genotype, one.seed, baselines.topologies, draw, width, evaluations)
                )
                bar()

    def _grow(self, evaluations: Evaluations, found: Genotype) -> Growth:
        options = self.options.grow
        assert options is not None
        log = self._fresh_log("growth.jsonl")
        number = itertools.count(1)
        with progress("growth", None) as bar:

            def heard(step: GrowthStep) -> None:
                log.write("step", step=next(number), **step.record())
                one = step.choice
                bar(note=f"{one.params / 1e6:.2f} of {options.stop_params / 1e6:g} M parameters")

            return grow(options, found, self.options.data.pixels.size, evaluations, heard)

    def _write_search(self) -> None:
        table = statistics([one.genotype for one in self.searches])
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
        content: dict[str, Any] = {
            "genotype": rows[0]["genotype"],
            "complete": all(one.complete for one in self.searches)
            and len(self.searches) == len(self.options.search.seeds),
            "searches": rows,
            "statistics": {
                name: {"mean": mean, "std_over_mean": std, "paper_mean": PAPER_MEANS[name]}
                for name, (mean, std) in table.items()
            },
            "random": [one.record() for one in self.comparisons],
            "versions": versions(),
        }
        write_json(self.folder / "search.json", content)
        draw_searches(self.searches, self.folder / "search.png")

    def _write_growth(self, evaluations: Evaluations, found: Genotype) -> None:
        growth, options, baselines = self.growth, self.options.grow, self.options.baselines
        assert growth is not None
        assert options is not None
        sides = self.options.data.pixels.size
        others = [
            grow_at_random(options, found, sides, baselines.seed + number)
            for number in range(baselines.growths)
        ]
        ends = [other.models[-1] for other in others]
        measured = evaluations([one.narrow for one in ends], options.seed)
        content = {
            "genotype": str(growth.models[-1].genotype),
            **growth.record(),
            "random": [
                {
                    **one.record(),
                    "complexity": None if what.failed else what.complexity,
                    "condition": None if what.failed else what.condition,
                    "models": [str(model.genotype) for model in other.models],
                }
                for one, what, other in zip(ends, measured, others)
            ],
        }
        write_json(self.folder / "growth.json", content)
        draw_growth(growth, others, self.folder / "growth.png")

    def _fresh_log(self, name: str) -> RunLog:
        """The log of a stage from its first step: what was done before is written again in no time."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        return RunLog(path)

    @contextmanager
    def _within(self, evaluations: Evaluations, minutes: float | None) -> Iterator[None]:
        """Inside, measurements end when the minutes have passed."""
        end = None if minutes is None else time.monotonic() + 60 * minutes
        evaluations.hurry = lambda: end is not None and time.monotonic() >= end
        try:
            yield
        finally:
            evaluations.hurry = lambda: False
