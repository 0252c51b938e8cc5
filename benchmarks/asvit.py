"""What As-ViT's measures cost on one CPU thread.

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
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from revit.common.report.tables import print_table
from revit.common.system.command_line import add_json, parse, parser, tool
from revit.common.system.files import write_json
from revit.image.models.asvit import AsViT
from revit.image.models.genotype import SEED_TOPOLOGY
from revit.image.search.complexity import Circle, Curve, curve_of, pooled, thetas_of, without_norms
from revit.image.search.measure import Measurer, one_thread
from revit.image.search.ntk import ntk, weight_gradients
from revit.image.search.options import MeasureOptions

GROUP = 6
"""Angles of one group in the published code."""


def published_length(model: AsViT, circle: Circle, thetas: Tensor) -> float:
    """Length distortion in reverse mode."""
    total = 0.0
    with without_norms(model):
        for angles in thetas.split(GROUP):
            angles = angles.clone().requires_grad_()
            out = pooled(model, circle.at(angles))
            columns = [
                torch.autograd.grad(out[:, column].sum(), angles, retain_graph=True)[0]
                for column in range(out.shape[1])
            ]
            total += Curve(torch.stack(columns, dim=1)).length()
    return total


def seconds_of(work: Callable[[], Any], rounds: int) -> float:
    """Processor seconds of the fastest round, after one that is not counted."""
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times[1:])


def measure(rounds: int, published_width: int) -> list[dict[str, Any]]:
    """One row for every number."""
    rows: list[dict[str, Any]] = []

    def add(what: str, width: int, pixels: int, seconds: float) -> None:
        rows.append({"what": what, "width": width, "pixels": pixels, "seconds": round(seconds, 4)})

    def prepared(width: int, pixels: int) -> tuple[AsViT, Circle, Tensor]:
        generator = torch.Generator().manual_seed(0)
        model = AsViT(SEED_TOPOLOGY.grown(width=width), pixels, num_classes=0).train()
        shape = torch.Size((3, pixels, pixels))
        return model, Circle.draw(shape, generator, dtype=torch.float32), thetas_of(10).float()

    large = prepared(32, 224)
    add("length", 32, 224, seconds_of(lambda: curve_of(*large).length(), rounds))
    small = prepared(published_width, 64)
    ours, theirs = curve_of(*small).length(), published_length(*small)
    assert abs(ours / theirs - 1) < 1e-3, (ours, theirs)
    add("length", published_width, 64, seconds_of(lambda: curve_of(*small), rounds))
    add("length, published procedure", published_width, 64, seconds_of(lambda: published_length(*small), 1))

    images = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    model = prepared(32, 64)[0]
    add("kernel", 32, 64, seconds_of(lambda: ntk(model, images), rounds))
    add("kernel, picture by picture", 32, 64, seconds_of(lambda: weight_gradients(model, images), rounds))

    measurer, repeats = Measurer(MeasureOptions(), images), range(5)

    def step() -> None:
        for repeat in repeats:
            measurer.complexity(SEED_TOPOLOGY, 8, repeat)
            measurer.condition(SEED_TOPOLOGY, 8, repeat)

    seconds = seconds_of(step, rounds)
    add("step of the search", 32, 64, seconds)
    add("500 steps, two cores", 32, 64, 500 * seconds / 2)
    return rows


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__ or "", "python benchmarks/asvit.py --rounds 1")
    arguments.add_argument("--rounds", type=int, default=3, help="of which the fastest counts; default 3")
    arguments.add_argument(
        "--published-width",
        type=int,
        default=8,
        help="C of the network that the published procedure is timed on",
    )
    add_json(arguments)
    values = parse(arguments, argv)
    with one_thread():
        rows = measure(values.rounds, values.published_width)
    print_table("As-ViT's measures, one thread", {name: name for name in rows[0]}, rows)
    if values.json:
        write_json(values.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
