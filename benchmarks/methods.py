"""Measure what the methods save in time, and what their own work costs, each against plain models in the same run.

    python benchmarks/methods.py [dynamicvit] [toe] [flexivit] [asvit] [--device cpu] [--dtype bfloat16] [--batch 8] [--json OUT]

dynamicvit  DeiT-S and DynamicViT-DeiT-S at a keeping ratio of 0.7, whose GMACs are 35 % fewer: pictures a second. Then where
            the rest of those 35 % goes, by timing four steps from one model to the other: "blocks" are the same blocks over
            196, 137, 96 and 67 tokens with nothing decided (what fewer GMACs could save at best here), "scores" has the
            predictors on top, and "gather" sorts and gathers the tokens that go on: DynamicViT itself.
toe         A training step of DeiT-S with all tokens and at each stage of Token Expansion, r1 0.5, and the choice of tokens by
            itself. To reach: 1.24 times as fast, averaged over the stages, and less than 3 % of a step for the choice.
flexivit    The resizing of FlexiViT-S at 240 pixels and one token grid: its share of a training step and of an answer.
asvit       What As-ViT's measures cost on one CPU thread. "length" is the length distortion of the paper's topology (C = 32, one
            block a stage) at 224 pixels, of 10 angles and one repeat; to reach: at most 5 s. Then the same number as the
            published code finds it, by one backward pass for every output number and group of angles, on a narrower network
            at 64 pixels (at full size it takes minutes), and ours there. "kernel" is the NTK of 16 pictures at 64 pixels, all at
            once and picture by picture. A step of the search is 5 repeats of both measures at 64 pixels.

All calls take turns. On a CPU shares and gains are by processor time, which others who use the cores disturb less than the
clock; tables show both. Weights are random; speed does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from harness import CONFIGS, CPU, arguments_of, check_rows, costs_of, finish, goal, print_times
from modalities import load_run
from torch import Tensor

from revit.common.costs.flops import count
from revit.common.methods.dynamicvit.method import DynamicViT, DynamicViTOptions
from revit.common.methods.dynamicvit.reducer import DynamicViTReducer
from revit.common.methods.task import Progress
from revit.common.methods.toe import TokenExpansion
from revit.common.modality.costs import build
from revit.common.models.embed.patches import resize_patch_kernel, resize_positions
from revit.common.models.grid import TokenGrid
from revit.common.models.reducer import Decision, Reducer, Shorter, TokenLayout
from revit.common.models.vit import ResizableTransformer
from revit.common.speed.training_step import random_batch, training_step
from revit.common.system.command_line import parse, tool
from revit.common.system.device import DTYPES, pick_device
from revit.common.timing.cases import noise
from revit.common.timing.clock import time_rounds
from revit.image.models.asvit import AsViT
from revit.image.models.genotype import SEED_TOPOLOGY
from revit.image.models.variants import VARIANTS
from revit.image.search.complexity import (
    Circle,
    Curve,
    curve_of,
    ntk,
    pooled,
    thetas_of,
    weight_gradients,
    without_norms,
)
from revit.image.search.measure import Measurer, one_thread
from revit.image.search.options import MeasureOptions

SHAPE = (1, 3, 224, 224)
REPEATS = 20
"""Times in a row that FlexiViT's resizing is made: once takes too little time to be measured."""
GROUP = 6
"""Angles of one group in As-ViT's published code."""
PUBLISHED_WIDTH = 8
"""Width of the As-ViT that the published procedure is tried on."""
Rows = list[dict[str, Any]]


class _FirstOnes(Shorter):
    """The first positions, which are taken without an index."""

    def apply(self, x: Tensor) -> Tensor:
        return x[:, : self.kept.shape[1]]


class Undecided(Reducer):
    """Drops as many tokens as the reducer inside, always the last ones; with `scored` it asks the predictors first."""

    def __init__(self, inside: DynamicViTReducer, scored: bool) -> None:
        super().__init__()
        self.inside, self.scored = inside, scored

    def plan(self, number: int, patches: Tensor, layout: TokenLayout) -> Decision | None:
        if number not in self.inside.before_blocks:
            return None
        stage, tokens = self.inside.before_blocks.index(number), patches.squeeze(2)
        if self.scored:
            self.inside.score_predictor[stage](tokens, tokens.new_ones(tokens.shape[:2]))
        first = layout.decisions[0] if layout.decisions else None
        original = first.num_positions if isinstance(first, Shorter) else tokens.shape[1]
        kept = torch.empty(0, int(original * self.inside.rates[stage]), dtype=torch.long)
        return _FirstOnes(kept, tokens.shape[1])


def dynamicvit_models(keep_rate: float) -> dict[str, ResizableTransformer]:
    """Return the backbone, the steps between, and DynamicViT, all with the same weights."""
    found: dict[str, ResizableTransformer] = {}
    for name in ("plain", "blocks", "scores", "gather"):
        torch.manual_seed(0)
        model = VARIANTS["deit_small"].build()
        if name != "plain":
            DynamicViT(DynamicViTOptions(keep_rate=keep_rate)).attach(model)
        if name in ("blocks", "scores"):
            assert isinstance(model.reducer, DynamicViTReducer)
            model.reducer = Undecided(model.reducer, scored=name == "scores")
        found[name] = model.eval()
    return found


@torch.inference_mode()
def dynamicvit(values: argparse.Namespace, device: torch.device) -> Rows:
    models = {
        name: model.to(device, DTYPES[values.dtype]) for name, model in dynamicvit_models(values.keep_rate).items()
    }
    costs = {name: count(models[name], SHAPE).gmacs for name in ("plain", "gather")}
    pictures = noise(SHAPE, values.batch, device, values.dtype)
    calls = {name: partial(model, pictures) for name, model in models.items()}
    times = time_rounds(calls, device, values.rounds, warm_up=2)
    what = f"DynamicViT-DeiT-S against DeiT-S, {values.dtype}, batch {values.batch}"
    spent = costs_of(times, device)

    def share(name: str, more: str, less: str) -> dict[str, Any]:
        rounds = zip(spent[more], spent[less], spent["plain"])
        shares = [100 * (a - b) / whole for a, b, whole in rounds]
        return goal(f"{what}: {name}, of a plain pass", None, shares, "{:.1f}", " %")

    promised = f"{costs['plain'] / costs['gather']:.2f} times, by GMACs"
    clock = {name: one.clock for name, one in times.items()}
    ratios = {
        kind: [a / b for a, b in zip(seconds["plain"], seconds["gather"])]
        for kind, seconds in (("clock", clock), ("processor", spent))
    }
    return [
        *print_times(what, times),
        *(goal(f"{what}, by the {kind}", promised, of, "{:.2f}", " times") for kind, of in ratios.items()),
        share("saved", "plain", "gather"),
        share("saved by shorter blocks", "plain", "blocks"),
        share("spent on predictors", "scores", "blocks"),
        share("spent on sorting and gathering", "gather", "scores"),
    ]


def toe(values: argparse.Namespace, device: torch.device) -> Rows:
    settings = [f"run.dtype={values.dtype}", f"methods.toe.first_rate={values.first_rate}"]
    options, modality = load_run(CONFIGS / "image" / "toe_deit_small_r0.5.yaml", settings)
    batch = random_batch(options, modality, values.batch, device)
    plain = training_step(options.model_copy(update={"methods": {}}), modality, batch, device, values.dtype)
    reduced = training_step(options, modality, batch, device, values.dtype)
    model = build(options, modality)[0]
    reducer, positions = model.reducer, model.grids[0].num_positions
    assert isinstance(reducer, TokenExpansion)
    reducer.train()
    layout = TokenLayout(model.grids[0], num_prefix=1, num_positions=positions)
    patches = torch.randn(values.batch, positions, 1, model.embed_dim, device=device)

    def choose(stage: int) -> None:
        reducer.stage = stage
        reducer.plan(reducer.before_block, patches, layout)

    stages = range(1, reducer.growth.num_stages + 1)
    at = {stage: Progress(0, (stage - 1) / len(stages), stage / len(stages)) for stage in stages}
    calls: dict[str, Callable[[], Any]] = {"all tokens": partial(plain, at[1])}
    calls |= {f"stage {stage}": partial(reduced, at[stage]) for stage in stages}
    calls |= {f"choice {stage}": partial(choose, stage) for stage in stages}
    times = time_rounds(calls, device, values.rounds, warm_up=1)
    spent = costs_of(times, device)
    # A training has as many steps of every stage, so it is their mean that counts.
    each = [spent[f"stage {stage}"] for stage in stages]
    gains = [len(each) * whole / sum(of_round) for whole, *of_round in zip(spent["all tokens"], *each)]
    shares = [
        100 * statistics.median(spent[f"choice {stage}"]) / statistics.median(spent[f"stage {stage}"])
        for stage in stages
    ]
    what = f"ToE-DeiT-S, r1 {values.first_rate:g}, a training step, {values.dtype}, batch {values.batch}"
    by_stage = [statistics.median(a / b for a, b in zip(spent["all tokens"], stage)) for stage in each]
    return [
        *print_times(what, times),
        goal(f"{what}: mean of the stages", "1.24 times as fast", gains, "{:.2f}", " times", by_stage=by_stage),
        goal(f"{what}: the choice of tokens, over the stages", "under 3 % of a step", shares, "{:.2f}", " %"),
    ]


def flexivit(values: argparse.Namespace, device: torch.device) -> Rows:
    grid, size = TokenGrid.parse(values.grid), TokenGrid(7, 7)
    changes = [f"methods.flexivit.grids=[{grid}]", "methods.flexivit.teacher=null"]
    options, modality = load_run(CONFIGS / "image" / "flexivit_small.yaml", [*changes, f"run.dtype={values.dtype}"])
    batch = random_batch(options, modality, values.batch, device)
    step = training_step(options, modality, batch, device, values.dtype)
    model = build(options, modality)[0].to(device).eval()
    kernel, table = model.get_parameter("patch_embed.proj.weight"), model.get_parameter("pos_embed")
    patch = (240 // grid.rows, 240 // grid.cols)
    picture = torch.randn(1, 3, 240, 240, device=device)

    def resize() -> list[Tensor]:
        return [resize_patch_kernel(kernel, patch), resize_positions(table, 0, size, grid, "linear")]

    def resize_and_back() -> None:
        torch.autograd.grad(sum(part.sum() for part in resize()), (kernel, table))

    def repeated(call: Callable[[], Any]) -> None:
        for _ in range(REPEATS):
            call()

    calls = {
        "step": partial(step, Progress(0, 0.0, 1.0)),
        "resizing and back, repeated": partial(repeated, resize_and_back),
        "answer": torch.inference_mode()(lambda: model(picture, grid)),
        "resizing, repeated": torch.inference_mode()(lambda: repeated(resize)),
    }
    what = f"FlexiViT-S, {grid}, {values.dtype}"
    times = time_rounds(calls, device, values.rounds, warm_up=2)
    spent = costs_of(times, device)

    def percent(part: str, whole: str) -> list[float]:
        return [100 * a / b / REPEATS for a, b in zip(spent[part], spent[whole])]

    steps = f"{what}: resizing, of a training step, batch {values.batch}"
    return [
        *print_times(what, times),
        goal(steps, None, percent("resizing and back, repeated", "step"), "{:.2f}", " %"),
        goal(f"{what}: resizing, of one answer", None, percent("resizing, repeated", "answer"), "{:.2f}", " %"),
    ]


def published_length(model: AsViT, circle: Circle, thetas: Tensor) -> float:
    """Return the length distortion, found in reverse mode."""
    total = 0.0
    with without_norms(model):
        for angles in thetas.split(GROUP):
            angles = angles.clone().requires_grad_()
            columns = [
                torch.autograd.grad(column.sum(), angles, retain_graph=True)[0]
                for column in pooled(model, circle.at(angles)).unbind(1)
            ]
            total += Curve(torch.stack(columns, dim=1)).length()
    return total


def asvit_of(width: int, pixels: int) -> tuple[AsViT, Circle, Tensor]:
    """Return the paper's topology, a circle of pictures, and ten angles on it."""
    generator = torch.Generator().manual_seed(0)
    model = AsViT(SEED_TOPOLOGY.grown(width=width), pixels, num_classes=0).train()
    circle = Circle.draw((3, pixels, pixels), generator, dtype=torch.float32)
    return model, circle, thetas_of(10).float()


def asvit(values: argparse.Namespace, device: torch.device) -> Rows:
    images = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    large, narrow, small = asvit_of(32, 224), asvit_of(PUBLISHED_WIDTH, 64), asvit_of(32, 64)[0]
    ours, theirs = curve_of(*narrow).length(), published_length(*narrow)
    assert abs(ours / theirs - 1) < 1e-3, (ours, theirs)
    measurer = Measurer(MeasureOptions(), images)

    def step() -> None:
        for repeat in range(5):
            measurer.complexity(SEED_TOPOLOGY, 8, repeat)
            measurer.condition(SEED_TOPOLOGY, 8, repeat)

    calls: dict[str, Callable[[], Any]] = {
        "length": lambda: curve_of(*large).length(),
        f"length, width {PUBLISHED_WIDTH}, 64 pixels": lambda: curve_of(*narrow).length(),
        "the same by the published procedure": partial(published_length, *narrow),
        "kernel": partial(ntk, small, images),
        "kernel, picture by picture": partial(weight_gradients, small, images),
        "step of the search": step,
    }
    with one_thread():
        times = time_rounds(calls, CPU, values.rounds, warm_up=1)
    searched = [250 * seconds for seconds in times["step of the search"].processor]
    return [
        *print_times("As-ViT's measures, one thread", times),
        goal("As-ViT: length distortion at 224 pixels", "at most 5 s", times["length"].processor, unit=" s"),
        goal("As-ViT: 500 steps of the search on two cores", None, searched, "{:.0f}", " s"),
    ]


METHODS = {"dynamicvit": dynamicvit, "toe": toe, "flexivit": flexivit, "asvit": asvit}


@tool
def main(argv: Sequence[str] | None = None) -> int:
    settings = {"device": "auto", "dtype": "float32", "batch": 8, "rounds": 7}
    example = "python benchmarks/methods.py toe --batch 8 --rounds 5 --device cpu"
    arguments = arguments_of(__doc__, example, **settings, keep_rate=0.7, first_rate=0.5, grid="15x15")
    arguments.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(METHODS)}; all")
    values = parse(arguments, argv)
    check_rows(values.methods, METHODS)
    device = pick_device(values.device)
    rows = [row for name in values.methods or METHODS for row in METHODS[name](values, device)]
    return finish(__file__, argv, values, rows)


if __name__ == "__main__":
    sys.exit(main())
