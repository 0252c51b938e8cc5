"""Measure what As-ViT's measures cost on one CPU thread.

    python benchmarks/asvit.py [--rounds 3] [--published-width 8] [--json OUT]

length      Length distortion of the paper's topology (C = 32, one block a stage) at 224 pixels: 10 angles, one repeat. To
            reach: at most 5 s.
published   The same number as the published code finds it, by one backward pass for every output number and group of angles,
            on a narrower network at 64 pixels (at full size it takes minutes), and ours there.
kernel      The NTK of 16 pictures at 64 pixels: all at once, and picture by picture.
step        A step of the search (5 repeats of both measures) at 64 pixels, and from it 500 steps on two cores.

Times are the processor's, so that other work on the machine counts as little as possible; the best of the rounds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from harness import arguments_of, finish, in_turn
from torch import Tensor

from revit.common.report.tables import print_table
from revit.common.system.command_line import parse, tool
from revit.image.models.asvit import AsViT
from revit.image.models.genotype import SEED_TOPOLOGY
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

GROUP = 6
"""Angles of one group in the published code."""


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


def prepared(width: int, pixels: int) -> tuple[AsViT, Circle, Tensor]:
    """Return the paper's topology, a circle of pictures, and ten angles on it."""
    generator = torch.Generator().manual_seed(0)
    model = AsViT(SEED_TOPOLOGY.grown(width=width), pixels, num_classes=0).train()
    circle = Circle.draw((3, pixels, pixels), generator, dtype=torch.float32)
    return model, circle, thetas_of(10).float()


def measure(rounds: int, published_width: int) -> list[dict[str, Any]]:
    """Return one row for every number."""
    rows: list[dict[str, Any]] = []

    def add(what: str, width: int, pixels: int, work: Callable[[], Any], rounds: int = rounds) -> float:
        seconds = min(in_turn({what: work}, rounds)[what].processor)
        rows.append({"what": what, "width": width, "pixels": pixels, "seconds": round(seconds, 4)})
        return seconds

    large, small = prepared(32, 224), prepared(published_width, 64)
    add("length", 32, 224, lambda: curve_of(*large).length())
    ours, theirs = curve_of(*small).length(), published_length(*small)
    assert abs(ours / theirs - 1) < 1e-3, (ours, theirs)
    add("length", published_width, 64, partial(curve_of, *small))
    add("length, published procedure", published_width, 64, partial(published_length, *small), 1)

    images = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    model = prepared(32, 64)[0]
    add("kernel", 32, 64, partial(ntk, model, images))
    add("kernel, picture by picture", 32, 64, partial(weight_gradients, model, images))
    measurer = Measurer(MeasureOptions(), images)

    def step() -> None:
        for repeat in range(5):
            measurer.complexity(SEED_TOPOLOGY, 8, repeat)
            measurer.condition(SEED_TOPOLOGY, 8, repeat)

    seconds = add("step of the search", 32, 64, step)
    rows.append({**rows[-1], "what": "500 steps, two cores", "seconds": round(250 * seconds, 4)})
    return rows


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = arguments_of(__doc__, "python benchmarks/asvit.py --rounds 1", rounds=3, published_width=8)
    values = parse(arguments, argv)
    with one_thread():
        rows = measure(values.rounds, values.published_width)
    print_table("As-ViT's measures, one thread", {name: name for name in rows[0]}, rows)
    return finish(__file__, argv, values, rows)


if __name__ == "__main__":
    sys.exit(main())
