"""What the two processes of test_groups.py do: train a DynamicViT with groups of parameters by DeepSpeed, and write how far
that is from the same in one process.

Decisions are the more probable ones instead of draws, which every process would make otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from revit.common.config.sections import GroupOptions, OptimOptions, ParallelOptions, ScheduleOptions
from revit.common.data.batch import Batch
from revit.common.methods.dynamicvit.method import PREDICTORS, DynamicViTTask
from revit.common.methods.dynamicvit.reducer import DynamicViTReducer
from revit.common.methods.revit.task import SelfDistillation
from revit.common.training.optim import MovedSchedule, build_optimizer, build_scheduler
from revit.common.training.parallel.backend import LocalBackend
from revit.common.training.parallel.deepspeed_backend import DeepSpeedBackend
from revit.video.models.timesformer import TimeSformer

CPU = torch.device("cpu")
GROUPS = (
    GroupOptions(match=PREDICTORS),
    GroupOptions(match="cls_token|pos_embed", lr_scale=0),
    GroupOptions(match="", lr_scale=0.5, frozen_epochs=2),
)
UPDATES, HALF = 8, 4
generator = torch.Generator().manual_seed(1)
CLIPS = torch.randn(UPDATES, 4, 3, 2, 16, 16, generator=generator)
TARGETS = torch.randint(0, 3, (UPDATES, 4), generator=generator)


def most_probable(scores: Tensor, *_: object, **__: object) -> Tensor:
    """As a hard straight-through draw without noise."""
    soft = scores.softmax(dim=-1)
    hard = torch.zeros_like(soft).scatter(-1, soft.argmax(dim=-1, keepdim=True), 1.0)
    return hard - soft.detach() + soft


class Run:
    def __init__(self, backend: LocalBackend | DeepSpeedBackend, share: slice = slice(None)) -> None:
        torch.manual_seed(0)
        std = {"pos_std": 0.5, "time_std": 0.5, "temporal_fc_std": 0.1, "linear_std": 0.3}
        self.model = TimeSformer(16, [4], 2, 3, 16, 2, 2, drop_path_rate=0.0, **std)
        self.model.reducer = DynamicViTReducer(16, (0, 1), (0.7, 0.49))
        for predictor in self.model.reducer.score_predictor:
            torch.nn.init.normal_(predictor.out_conv[4].weight)
        options = OptimOptions(name="adamw", lr=1e-3, weight_decay=0.05, eps=1e-3, groups=GROUPS)
        optimizer = build_optimizer(self.model, options)
        schedule = ScheduleOptions(name="cosine", epochs=UPDATES // 2, warmup_epochs=1)
        moved = MovedSchedule(build_scheduler(optimizer, schedule, 2), 2)
        self.backend, self.share = backend, share
        self.network = backend.prepare(self.model, optimizer, moved)
        self.network.train()
        self.task = DynamicViTTask(SelfDistillation(), (0.7, 0.49))

    def updates(self, first: int, last: int) -> None:
        for number in range(first, last):
            targets = TARGETS[number, self.share]
            batch = Batch(torch.empty(0), targets, targets)
            for _, loss in self.task.losses(self.network, CLIPS[number, self.share], batch):
                self.backend.backward(loss)
            self.backend.step()


def difference(one: dict, two: dict) -> float:
    """The largest between two states, over weights and what the optimiser keeps."""
    pairs = [(one["model"][name], two["model"][name]) for name in one["model"]]
    kept = [(one["optimizer"][name], two["optimizer"][name]) for name in one["optimizer"]]
    pairs += [(own[key], other[key]) for own, other in kept for key in own]
    return max(float((a - b).abs().max()) for a, b in pairs)


def main(folder: Path) -> None:
    F.gumbel_softmax = most_probable
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    alone = Run(LocalBackend(CPU))
    start = alone.backend.state_dict()["model"]
    alone.updates(0, HALF)
    alone.updates(HALF, UPDATES)
    whole = alone.backend.state_dict()
    split = folder / "split_small_weights.json"
    if rank == 0:
        split.write_text('{"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}')
    dist.barrier()
    found: dict[str, float] = {}
    for stage in (1, 3):
        extra = {"deepspeed_config": split} if stage == 3 else {}
        options = ParallelOptions(backend="deepspeed", zero_stage=stage, activation_checkpointing=stage == 3, **extra)
        share = slice(2 * rank, 2 * rank + 2)
        run = Run(DeepSpeedBackend(CPU, "float32", 1, None, options, batch_size=2), share)
        run.updates(0, HALF)
        half = run.backend.state_dict()
        frozen = [name for name in start if not name.startswith("reducer.")]
        found[f"{stage} frozen"] = max(float((half["model"][name] - start[name]).abs().max()) for name in frozen)
        still = [name for name in start if name not in frozen and torch.equal(half["model"][name], start[name])]
        found[f"{stage} predictors stand still"] = len(still)
        run.updates(HALF, UPDATES)
        end = run.backend.state_dict()
        found[f"{stage} end"] = difference(end, whole)
        again = Run(DeepSpeedBackend(CPU, "float32", 1, None, options, batch_size=2), share)
        again.backend.load_state_dict(half)
        again.updates(HALF, UPDATES)
        found[f"{stage} again"] = difference(again.backend.state_dict(), end)
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()
