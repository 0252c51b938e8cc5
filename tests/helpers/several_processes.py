"""Started twice, as Slurm starts two tasks: runs of several processes, stopped and gone on with. Rank 0 writes what it found.

Arguments: a configuration, a folder that runs go into, the file to write.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from modalities import load_run

from revit.common.methods.revit.task import ResizableTask
from revit.common.system.distributed import DistributedContext, start_distributed, stop_distributed
from revit.common.system.errors import Stopped, UserError
from revit.common.training.recipe import Recipe
from revit.common.training.run_folder import check_shared
from revit.common.weights.checkpoint import load_checkpoint


def run(config: str, folder: Path, context: DistributedContext, *overrides: str, stage: str | None = None) -> None:
    options, modality = load_run(config, [f"run.dir={folder}", *overrides])
    Recipe(options, modality, context).run(stage)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    parts = load_checkpoint(folder / "checkpoint.safetensors").parts
    return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}


def same(one: Path, two: Path) -> bool:
    first, second = weights(one), weights(two)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def at_batch(number: int, work: Callable[[], object]) -> Callable[[], None]:
    """Does `work` in the middle of a batch, which is spoilt by what it returns; undone by what this returns."""
    losses, seen = ResizableTask.losses, iter(range(1, 10_000))

    def troubled(self, model, inputs, batch):
        spoilt = work() if next(seen) == number else None
        yield from losses(self, model, inputs if spoilt is None else inputs * spoilt, batch)

    ResizableTask.losses = troubled
    return lambda: setattr(ResizableTask, "losses", losses)


def stopped(work: Callable[[], None]) -> str:
    try:
        work()
    except Stopped as stop:
        return str(stop)
    return "not stopped"


def failed(work: Callable[[], None]) -> str:
    try:
        work()
    except UserError as error:
        return str(error)
    return "no error"


def stop_and_go_on(config: str, runs: Path, context: DistributedContext, backend: str) -> dict[str, object]:
    """A whole run, and one of which one process is asked to end."""
    parallel = [f"parallel.backend={backend}", "parallel.zero_stage=2"]
    whole, parts = runs / backend, runs / f"{backend}_parts"
    run(config, whole, context, *parallel)
    undo = at_batch(4, lambda: os.kill(os.getpid(), signal.SIGTERM) if context.rank == 1 else None)
    message = stopped(lambda: run(config, parts, context, *parallel))
    undo()
    torch.manual_seed(context.rank + 100)
    if context.is_main:
        shutil.copytree(parts, runs / f"{backend}_elsewhere")
    run(config, parts, context, *parallel)
    return {"stopped": context.gather(message), "same": same(whole, parts)}


def main(config: str, runs: Path, out: Path) -> None:
    context = start_distributed(torch.device("cpu"), 2)
    found: dict[str, object] = {"ranks": [context.gather(context.rank)]}
    for backend in ("deepspeed", "replicas"):
        found[backend] = stop_and_go_on(config, runs, context, backend)
    # Any process may meet a loss that is not finite.
    undo = at_batch(3, lambda: float("nan") if context.rank == 1 else None)
    message = failed(lambda: run(config, runs / "broken", context, "parallel.backend=replicas"))
    undo()
    found["broken"] = context.gather(message)
    # Fewer tokens early in training, with the grids shared out.
    phases = "methods.retokenize={phases: [{until: 0.5, coarser: 2}]}"
    run(config, runs / "retokenized", context, "parallel.backend=replicas", phases)
    # One process was given another folder, and another finds one of its own in the shared one's place.
    elsewhere = runs / f"rank{context.rank}"
    message = failed(lambda: run(config, elsewhere, context))
    found["other settings"] = context.gather(message)
    message = failed(lambda: check_shared(elsewhere, context, patience_s=0.5))
    found["other folder"] = context.gather(message)
    if context.is_main:
        out.write_text(json.dumps(found))
    stop_distributed()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
