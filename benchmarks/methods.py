"""Measure what the methods save in time, and what their own work costs, each against plain models in the same run.

    python benchmarks/methods.py [dynamicvit] [toe] [flexivit] [--device cpu] [--dtype bfloat16] [--batch 8] [--json OUT]

dynamicvit  DeiT-S and DynamicViT-DeiT-S at a keeping ratio of 0.7, whose GMACs are 35 % fewer: pictures a second. Then where
            the rest of those 35 % goes, by timing four steps from one model to the other: "blocks" are the same blocks over
            196, 137, 96 and 67 tokens with nothing decided (what fewer GMACs could save at best here), "scores" has the
            predictors on top, and "gather" sorts and gathers the tokens that go on: DynamicViT itself.
toe         A training step of DeiT-S with all tokens and at each stage of Token Expansion, r1 0.5, and the choice of tokens by
            itself. To reach: 1.24 times as fast, averaged over the stages, and less than 3 % of a step for the choice.
flexivit    The resizing of FlexiViT-S at 240 pixels and one token grid: its share of a training step and of an answer.

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
from harness import CONFIGS, arguments_of, check_rows, finish, goal, in_turn, print_times
from modalities import load_run
from torch import Tensor

from revit.common.config.sections import ScheduleOptions
from revit.common.costs.flops import count
from revit.common.data.batch import Batch
from revit.common.methods.base import optim_of, task_of
from revit.common.methods.dynamicvit.method import DynamicViT, DynamicViTOptions
from revit.common.methods.dynamicvit.reducer import DynamicViTReducer
from revit.common.methods.task import Progress
from revit.common.methods.toe import TokenExpansion
from revit.common.modality.costs import build, num_classes
from revit.common.models.embed.patches import resize_patch_kernel, resize_positions
from revit.common.models.grid import TokenGrid
from revit.common.models.reducer import Decision, Reducer, Shorter, TokenLayout
from revit.common.models.vit import ResizableTransformer
from revit.common.system.command_line import parse, tool
from revit.common.system.device import DTYPES, pick_device
from revit.common.timing.cases import noise
from revit.common.training.optim import build_optimizer, build_scheduler
from revit.common.training.parallel.backend import LocalBackend
from revit.common.training.trainer import forward_backward
from revit.image.models.variants import VARIANTS

SHAPE = (1, 3, 224, 224)
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
    times = in_turn(calls, values.rounds, device, warm_up=2, min_seconds=0.3)
    what = f"DynamicViT-DeiT-S against DeiT-S, {values.dtype}, batch {values.batch}"
    spent = {name: one.processor for name, one in times.items()}

    def share(name: str, more: str, less: str) -> dict[str, Any]:
        rounds = zip(spent[more], spent[less], spent["plain"])
        shares = [100 * (a - b) / whole for a, b, whole in rounds]
        return goal(f"{what}: {name}, of a plain pass", None, shares, "{:.1f}", " %")

    promised = f"{costs['plain'] / costs['gather']:.2f} times, by GMACs"
    ratios = {
        kind: [a / b for a, b in zip(getattr(times["plain"], kind), getattr(times["gather"], kind))]
        for kind in ("clock", "processor")
    }
    return [
        *print_times(what, times),
        *(goal(f"{what}, by the {kind}", promised, of, "{:.2f}", " times") for kind, of in ratios.items()),
        share("saved", "plain", "gather"),
        share("saved by shorter blocks", "plain", "blocks"),
        share("spent on predictors", "scores", "blocks"),
        share("spent on sorting and gathering", "gather", "scores"),
    ]


def training_step(options: Any, modality: Any, device: torch.device, batch_size: int) -> Callable[[Progress], None]:
    """Return the trainer's step on noise: the run's untrained model with its methods, at a given progress of the training."""
    model = build(options, modality)[0].to(device).train()
    task = task_of(options, modality.task(options), modality, model)
    optimizer = build_optimizer(model, optim_of(options))
    backend = LocalBackend(
        device, options.run.dtype, clip_grad_norm=options.train.clip_grad_norm, options=options.parallel
    )
    schedule = build_scheduler(optimizer, ScheduleOptions(name="constant"), 1)
    called, normalizer = (backend.prepare(model, optimizer, schedule), modality.normalizer(options).to(device))
    pixels = torch.randint(
        256, (batch_size, *modality.input_shape(options)[1:]), generator=torch.Generator().manual_seed(0)
    )
    ids = torch.arange(batch_size)
    batch = Batch(pixels.to(torch.uint8), ids % num_classes(options, modality), ids).to(device)

    def step(now: Progress) -> None:
        forward_backward(called, task, backend, normalizer, batch, now)
        backend.step()

    return step


def toe(values: argparse.Namespace, device: torch.device) -> Rows:
    settings = [f"run.dtype={values.dtype}", f"methods.toe.first_rate={values.first_rate}"]
    options, modality = load_run(CONFIGS / "image" / "toe_deit_small_r0.5.yaml", settings)
    plain = training_step(options.model_copy(update={"methods": {}}), modality, device, values.batch)
    reduced = training_step(options, modality, device, values.batch)
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
    times = in_turn(calls, values.rounds, device)
    spent = {name: one.processor for name, one in times.items()}
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
    step = training_step(options, modality, device, values.batch)
    model = build(options, modality)[0].to(device).eval()
    kernel, table = model.get_parameter("patch_embed.proj.weight"), model.get_parameter("pos_embed")
    patch = (240 // grid.rows, 240 // grid.cols)
    picture = torch.randn(1, 3, 240, 240, device=device)

    def resized() -> list[Tensor]:
        return [resize_patch_kernel(kernel, patch), resize_positions(table, 0, size, grid, "linear")]

    def resize_and_back() -> None:
        torch.autograd.grad(sum(part.sum() for part in resized()), (kernel, table))

    calls = {
        "step": partial(step, Progress(0, 0.0, 1.0)),
        "resizing, and back": resize_and_back,
        "answer": torch.inference_mode()(lambda: model(picture, grid)),
        "resizing": torch.inference_mode()(resized),
    }
    what = f"FlexiViT-S, {grid}, {values.dtype}"
    times = in_turn(calls, values.rounds, device, warm_up=2, min_seconds=0.1)
    spent = {name: one.processor for name, one in times.items()}

    def percent(part: str, whole: str) -> list[float]:
        return [100 * a / b for a, b in zip(spent[part], spent[whole])]

    steps = f"{what}: resizing, of a training step, batch {values.batch}"
    return [
        *print_times(what, times),
        goal(steps, None, percent("resizing, and back", "step"), "{:.2f}", " %"),
        goal(f"{what}: resizing, of one answer", None, percent("resizing", "answer"), "{:.2f}", " %"),
    ]


METHODS = {"dynamicvit": dynamicvit, "toe": toe, "flexivit": flexivit}


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
