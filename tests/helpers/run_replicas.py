"""What the processes of test_replicas.py do: replicas against Algorithm 1 in one process, on the same batches. Rank 0 writes what it found.

Findings are largest differences, or true and false.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from revit.common.config.sections import OptimOptions, ParallelOptions, ReplicaOptions, ScheduleOptions
from revit.common.data.batch import Batch
from revit.common.methods.revit.task import ResizableTask
from revit.common.training.optim import build_optimizer, build_scheduler
from revit.common.training.parallel.backend import LocalBackend
from revit.common.training.parallel.replicas import ReplicaBackend, place_grids
from revit.image.models.variants import VARIANTS
from revit.image.tasks import TokenLabelTask

CPU = torch.device("cpu")
UPDATES = 5
GRIDS = {2: ["6x6", "3x3"], 3: ["6x6", "4x4", "3x3"]}


def network(name: str, num_grids: int, drop_path: float = 0.0, seed: int = 0) -> Any:
    """Small, with BatchNorm in a stem per grid."""
    stem = {"deit_small": {"patch_embed": "stem", "stem_widths": (4, 8, 8)}, "lvvit_s": {"stem_widths": (4, 4, 4)}}
    torch.manual_seed(seed)
    return VARIANTS[name].build(
        img_size=48,
        grids=GRIDS[num_grids],
        num_classes=5,
        embed_dim=16,
        depth=2,
        num_heads=2,
        drop_path_rate=drop_path,
        **stem[name],
    )


def batch(number: int) -> tuple[Tensor, Batch]:
    generator = torch.Generator().manual_seed(1000 + number)
    targets = torch.randint(5, (4,), generator=generator)
    return torch.randn(4, 3, 48, 48, generator=generator), Batch(torch.empty(0), targets, targets)


def prepare(backend: LocalBackend, model: nn.Module, optimizer: str) -> None:
    rates = {"sgd": 0.05, "adamw": 1e-3}
    options = OptimOptions.model_validate({"name": optimizer, "lr": rates[optimizer], "weight_decay": 0.01})
    made = build_optimizer(model, options)
    backend.prepare(model, made, build_scheduler(made, ScheduleOptions(name="cosine", epochs=9), 1))


def train(backend: LocalBackend, model: nn.Module, task: Any, numbers: Sequence[int]) -> list[dict[str, float]]:
    """The losses of every batch."""
    losses: list[dict[str, float]] = []
    for number in numbers:
        inputs, target = batch(number)
        torch.manual_seed(number)  # mixing draws from here; one process moves it on in other ways than a group
        losses.append({})
        with backend.autocast():
            for name, loss in task.losses(model.train(), inputs, target):
                backend.backward(loss)
                losses[-1][name] = float(loss.detach())
        backend.step()
    return losses


def distance(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> float:
    return max(float((tensor.double() - two[name]).detach().abs().max()) for name, tensor in one.items())


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def replicas(
    name: str,
    task: Any,
    options: ReplicaOptions,
    num_grids: int,
    optimizer: str,
    accumulate: int,
    dtype: str = "float32",
    parallel: ParallelOptions = ParallelOptions(),  # noqa: B008
    **model: Any,
) -> tuple[ReplicaBackend, Any, list[dict[str, float]]]:
    """After `UPDATES` updates: backend, network, losses of this rank."""
    ours = network(name, num_grids, seed=dist.get_rank(), **model)  # all get rank 0's weights
    placement = place_grids(ours.grids, ours.embed_dim, options, dist.get_rank(), dist.get_world_size())
    backend = ReplicaBackend(CPU, dtype, accumulate, 1.0, parallel, placement=placement)
    backend.bucket_bytes = 4000  # so that there are many
    prepare(backend, ours, optimizer)
    backend.share(task)
    numbers = range(UPDATES * accumulate * placement.num_groups)[placement.group :: placement.num_groups]
    return backend, ours, train(backend, ours, task, numbers)


def against_one_process(
    name: str,
    task: Callable[[], Any],
    options: ReplicaOptions,
    num_grids: int,
    optimizer: str = "sgd",
    accumulate: int = 1,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Replicas, and the local backend that accumulates the batches of all groups."""
    backend, ours, losses = replicas(name, task(), options, num_grids, optimizer, accumulate, dtype)
    placement, G = backend.placement, backend.placement.num_groups

    reference = network(name, num_grids)
    start = {key: value.clone() for key, value in weights(reference).items()}
    local = LocalBackend(CPU, dtype, accumulate * G, clip_grad_norm=1.0)
    prepare(local, reference, optimizer)
    numbers = range(UPDATES * accumulate * G)
    wanted = train(local, reference, task(), numbers)[placement.group :: G]
    found = {
        "moved": distance(start, weights(reference)),
        "weights": distance(weights(reference), weights(ours)),
        # One process moves BatchNorm's statistics once for every group's batch.
        "buffers": distance(dict(reference.named_buffers()), dict(ours.named_buffers())) if G == 1 else 0.0,
        "losses": max(abs(mine[key] - want[key]) for mine, want in zip(losses, wanted) for key in mine),
        "ran": [list(mine) for mine in losses] == [[grid.name for grid in placement.own]] * len(losses),
        "updates": backend.num_updates,
    }

    # One process goes on from the replicas' state as it does from its own.
    resumed = network(name, num_grids, seed=7)
    after = LocalBackend(CPU, dtype, accumulate * G, clip_grad_norm=1.0)
    prepare(after, resumed, optimizer)
    after.load_state_dict(backend.state_dict())
    for one, model in ((after, resumed), (local, reference)):
        train(one, model, task(), numbers)
    found["gone on"] = distance(weights(reference), weights(resumed))
    return gathered(found, ours)


def gathered(found: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The findings of all ranks (lists), and whether their networks are the same bit for bit."""
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, (found, dict(model.state_dict())))
    first = everywhere[0][1]
    same = all(torch.equal(other[key], first[key]) for _, other in everywhere for key in first)
    return {**{key: [one[key] for one, _ in everywhere] for key in found}, "same": same}


def random_numbers_of_a_grid_do_not_depend_on_who_runs_it() -> float:
    """With stochastic depth: the longest grid alone, in company, and with blocks that are computed again."""
    results = []
    for grids_per_rank, again in (
        ([["6x6"], ["4x4", "3x3"]], False),
        ([["6x6", "3x3"], ["4x4"]], False),
        ([["4x4"], ["6x6", "3x3"]], True),
    ):
        options = ReplicaOptions.model_validate({"grids_per_rank": grids_per_rank})
        parallel = ParallelOptions(activation_checkpointing=again)
        _, model, _ = replicas("deit_small", ResizableTask(), options, 3, "sgd", 1, parallel=parallel, drop_path=0.5)
        results.append(weights(model))
    _, other, _ = replicas("deit_small", ResizableTask(), ReplicaOptions(), 3, "sgd", 1)
    assert distance(results[0], weights(other)) > 1e-3  # stochastic depth does something
    return max(distance(results[0], one) for one in results[1:])


def main(out: str) -> None:
    dist.init_process_group("gloo")
    size = dist.get_world_size()
    groups = ReplicaOptions(ranks_per_group=1)
    shared = ReplicaOptions(ranks_per_group=min(size, 3))
    cases: dict[str, tuple[Any, ...]] = {
        "deit": ("deit_small", ResizableTask, shared, 3),
        "adamw, two batches an update": ("deit_small", ResizableTask, shared, 3, "adamw", 2),
        "lvvit with mixed tokens": ("lvvit_s", TokenLabelTask, shared, 3),
    }
    if size == 2:
        two = ("deit_small", ResizableTask, ReplicaOptions(), 2, "sgd", 1)
        # Sums of two do not depend on the order, or bfloat16 would round differently in the next pass.
        cases |= {dtype: (*two, dtype) for dtype in ("float32", "bfloat16", "float16")}
        cases["a rank is a group"] = ("deit_small", ResizableTask, groups, 2)
    if size == 4:
        pairs = ReplicaOptions.model_validate({"grids_per_rank": [["4x4", "3x3"], ["6x6"]]})
        cases = {"two groups of two": ("lvvit_s", TokenLabelTask, pairs, 3, "sgd", 2)}
    found: dict[str, Any] = {name: against_one_process(*case) for name, case in cases.items()}
    if size == 2:
        found["random"] = random_numbers_of_a_grid_do_not_depend_on_who_runs_it()
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(found))
    dist.destroy_process_group()
