"""What FlexiViT's resizing costs: its share of a training step and of a forward pass of FlexiViT-S at 240 pixels.

python benchmarks/flexivit.py [--batch 8] [--grid 15x15] [--steps 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from revit.common.models.embed.resize import resize_patch_kernel, resize_positions
from revit.common.models.grid import TokenGrid
from revit.image.models.deit import DeiT


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Of calls after two that are not counted."""
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--grid", type=TokenGrid.parse, default=TokenGrid(15, 15))
    options.add_argument("--steps", type=int, default=5)
    values = options.parse_args()
    model, grid = DeiT(240, (30, 15), patch_embed="flexi"), values.grid
    images = torch.randn(values.batch, 3, 240, 240)
    kernel, table = model.patch_embed.proj.weight, model.pos_embed
    patch = (240 // grid.rows, 240 // grid.cols)
    size = TokenGrid(7, 7)

    def resized() -> list[Tensor]:
        return [resize_patch_kernel(kernel, patch), resize_positions(table, 0, size, grid, "linear")]

    def resize_and_back() -> None:
        torch.autograd.grad(sum(part.sum() for part in resized()), (kernel, table))

    def step() -> None:
        model.zero_grad()
        model(images, grid).logits.sum().backward()

    def answer(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode():
                work()

        return run

    whole, part = median_seconds(step, values.steps), median_seconds(resize_and_back, 10 * values.steps)
    print(
        f"step, batch {values.batch}, {grid}: {1e3 * whole:.1f} ms, resizing {1e3 * part:.2f} ms, {part / whole:.2%}"
    )
    model.eval()
    whole = median_seconds(answer(lambda: model(images[:1], grid)), values.steps)
    part = median_seconds(answer(resized), 10 * values.steps)
    print(f"answer, batch 1, {grid}: {1e3 * whole:.1f} ms, resizing {1e3 * part:.2f} ms, {part / whole:.2%}")
    factor = torch.randn(patch[0] * patch[1], 32**2)
    one = median_seconds(answer(lambda: kernel.flatten(2) @ factor.T), 5 * values.steps)
    two = median_seconds(answer(lambda: resize_patch_kernel(kernel, patch)), 5 * values.steps)
    print(
        f"kernel by one matrix {1e3 * one:.2f} ms, by rows and columns {1e3 * two:.2f} ms: {one / two:.1f} times"
    )


if __name__ == "__main__":
    main()
