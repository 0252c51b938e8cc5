"""One training from its options: optimiser, schedule, average of the weights, backend, loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from revit.common.config.sections import ParallelOptions, RunOptions, TrainOptions
from revit.common.data.loader import Loader
from revit.common.methods.task import BatchAugment, Task
from revit.common.system.device import to_cpu
from revit.common.system.distributed import ALONE, World
from revit.common.system.log import RunLog
from revit.common.system.stop import StopRequest
from revit.common.training.optim import MovedSchedule, build_optimizer, build_scheduler
from revit.common.training.parallel.backend import DEFAULT
from revit.common.training.parallel.backends import divide, make_backend
from revit.common.training.start_line import start_facts, start_line
from revit.common.training.state import seed_data_rank
from revit.common.training.trainer import Trainer

Network = TypeVar("Network", bound=nn.Module)
Weights = dict[str, Tensor]


def train(
    name: str,
    network: Network,
    task: Task,
    make_loader: Callable[[int, int], Loader],
    options: TrainOptions,
    run: RunOptions,
    *,
    device: torch.device,
    normalizer: nn.Module,
    log: RunLog,
    parallel: ParallelOptions = DEFAULT,
    world: World = ALONE,
    stop: StopRequest | None = None,
    augment: BatchAugment | None = None,
    watch: Callable[[Network], Callable[[int], None] | None] = lambda network: None,
) -> dict[str, Weights]:
    """Train `network` to the end, from its newest state under `run.dir`, and return its weights on the CPU.

    Under "model" are those to use; where an average of the weights is kept, the other set is under "raw" (the average is
    the model) or "ema" (the trained weights are). `make_loader`: (rank, number) of those processes that read different
    samples -> loader. `watch`: the network to use -> what to call after epochs.

    Called by all processes of `world`, with equal networks.
    """
    network.to(device)
    average = ModelEmaV3(network, decay=options.ema.decay) if options.ema is not None else None
    uses_average = options.ema is not None and options.ema.use
    division = divide(parallel, network, world)
    backend = make_backend(division, parallel, options, task, device, run.dtype)
    facts = start_facts(division, backend, parallel, options, world)
    log.say(f"{name}: {start_line(facts)}")
    log.write("start", stage=name, **facts)
    trainer = Trainer(
        model=network,
        task=task,
        backend=backend,
        normalizer=normalizer.to(device),
        loader=make_loader(division.rank, division.num_ranks),
        num_epochs=options.schedule.total_epochs,
        folder=states_of(run, name),
        log=log,
        name=name,
        log_every=run.log_every,
        save_every=run.save_every,
        keep_states=run.keep_states,
        augment=augment,
        average=average,
        after_epoch=watch(average.module if average is not None and uses_average else network),
        world=world,
        stop=stop or StopRequest(),
        parallel=parallel.model_dump(mode="json") | {"backend": division.backend},
    )
    updates = trainer.batches_per_epoch // backend.accumulate
    optimizer = build_optimizer(network, options.optim)
    trainer.schedule = MovedSchedule(build_scheduler(optimizer, options.schedule, updates), updates)
    trainer.model = backend.prepare(network, optimizer, trainer.schedule)
    seed_data_rank(run.seed, division.rank)
    try:
        trainer.train()
        with backend.whole() as whole:
            trained = to_cpu(dict(whole.state_dict()))
    finally:
        backend.close()
    if average is None:
        return {"model": trained}
    averaged = to_cpu(dict(average.module.state_dict()))
    return {"model": averaged, "raw": trained} if uses_average else {"model": trained, "ema": averaged}


def states_of(run: RunOptions, name: str) -> Path:
    """Where the states of the training called `name` are."""
    return Path(run.dir) / "states" / name
