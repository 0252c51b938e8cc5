"""What the processes of test_deepspeed.py do: train with DeepSpeed, and write how far each run is from the same run in one
process."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from revit.common.config.sections import OptimOptions, ParallelOptions, ScheduleOptions
from revit.common.data.batch import Batch
from revit.common.methods.revit.task import ResizableTask
from revit.common.system.errors import UserError
from revit.common.training.optim import build_optimizer, build_scheduler
from revit.common.training.parallel.backend import LocalBackend
from revit.common.training.parallel.deepspeed_backend import DeepSpeedBackend
from revit.video.models.timesformer import TimeSformer

CPU = torch.device("cpu")
FOLDER = Path()
NUM_UPDATES = 20
KEPT, FEW = 15, 5
"""Updates before a state that others go on from, and of what need not be long."""
BATCH = 6  # over 1, 2 and 3 processes
OPTIMIZERS = {
    "sgd": OptimOptions(name="sgd", lr=5e-2),  # with Nesterov momentum
    # Key biases have no gradient but rounding, which a small eps would blow up to a full step.
    "adamw": OptimOptions(name="adamw", lr=1e-3, weight_decay=0.05, decay_one_dimensional=False, eps=1e-3),
}
# Clipping and accumulation with one, recomputed blocks with the other.
SETTINGS = {"sgd": {"accumulate": 2, "clip": 0.5}, "adamw": {"accumulate": 1, "clip": None}}

generator = torch.Generator().manual_seed(1)
CLIPS = torch.randn(2 * NUM_UPDATES, BATCH, 3, 2, 16, 16, generator=generator)
TARGETS = torch.randint(0, 3, (2 * NUM_UPDATES, BATCH), generator=generator)


def small_model() -> TimeSformer:
    torch.manual_seed(0)
    std = {"pos_std": 0.5, "time_std": 0.5, "temporal_fc_std": 0.1}
    return TimeSformer(16, [4, 2], 2, 3, 16, 1, 2, drop_path_rate=0.0, **std)


class Run:
    """One training, by a backend that sees its share of every batch."""

    def __init__(self, backend, kind: str, share: slice = slice(None)) -> None:
        self.backend, self.share = backend, share
        model = small_model()
        optimizer = build_optimizer(model, OPTIMIZERS[kind])
        schedule = ScheduleOptions(name="cosine", epochs=NUM_UPDATES, warmup_epochs=2)
        self.network = backend.prepare(model, optimizer, build_scheduler(optimizer, schedule, 1))
        self.network.train()

    def batches(self, first: int, last: int) -> list[tuple[float, bool]]:
        """Train on batches [first, last): of each the summed losses, and whether it ended in an update."""
        seen = []
        for number in range(first, last):
            targets, total = TARGETS[number, self.share], 0.0
            with self.backend.autocast():
                batch = Batch(torch.empty(0), targets, targets)
                for _, loss in ResizableTask().losses(self.network, CLIPS[number, self.share], batch):
                    self.backend.backward(loss)
                    total += float(loss.detach())
            seen.append((total, self.backend.step()))
        return seen

    def updates(self, first: int, last: int) -> None:
        self.batches(first * self.backend.accumulate, last * self.backend.accumulate)


def local(kind: str, dtype: str = "float32") -> Run:
    settings = SETTINGS[kind]
    return Run(LocalBackend(CPU, dtype, settings["accumulate"], settings["clip"]), kind)


def distributed(kind: str, stage: int, dtype: str = "float32", **changes) -> Run:
    rank, world = dist.get_rank(), dist.get_world_size()
    size = BATCH // world
    settings = SETTINGS[kind]
    options = {"backend": "deepspeed", "zero_stage": stage, "activation_checkpointing": kind == "adamw", **changes}
    if stage == 3 and "deepspeed_config" not in options:
        options["deepspeed_config"] = FOLDER / "split_small_weights.json"
    backend = DeepSpeedBackend(
        CPU, dtype, settings["accumulate"], settings["clip"], ParallelOptions(**options), batch_size=size
    )
    return Run(backend, kind, slice(rank * size, (rank + 1) * size))


def difference(one: dict, two: dict) -> float:
    """The largest between two states, over weights and what the optimiser keeps; infinite where keys differ."""

    def flat(state: dict) -> dict[str, torch.Tensor]:
        kept = {f"{name} {key}": value for name, own in state["optimizer"].items() for key, value in own.items()}
        return {**state["model"], **kept}

    one, two = flat(one), flat(two)
    if set(one) != set(two):
        return float("inf")
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


RESULTS: dict[str, float] = {}


def note(name: str, value: float) -> None:
    """The largest of all ranks' values."""
    values: list[float] = [0.0] * dist.get_world_size()
    dist.all_gather_object(values, float(value))
    RESULTS[name] = max(values)


def train() -> None:
    """Every stage and optimiser against one process; their states; float16 and bfloat16; refusals."""
    halves: dict[tuple[str, int], dict] = {}
    for kind in OPTIMIZERS:
        alone = local(kind)
        alone.updates(0, KEPT)
        half = alone.backend.state_dict()
        with torch.no_grad():
            expected = alone.network(CLIPS[0]).logits
        alone.updates(KEPT, NUM_UPDATES)
        whole = alone.backend.state_dict()
        ends = {}
        for stage in range(4):
            run = distributed(kind, stage)
            run.updates(0, KEPT)
            halves[kind, stage] = run.backend.state_dict()
            note(f"{kind} {stage} half", difference(halves[kind, stage], half))
            with run.backend.whole() as network, torch.no_grad():
                note(f"{kind} {stage} whole count", abs(count(network) - count(alone.network)))
                if dist.get_rank() == 0:  # the others do not take part
                    note_alone = float((network(CLIPS[0]).logits - expected).abs().max())
            note(f"{kind} {stage} whole forward", note_alone if dist.get_rank() == 0 else 0.0)
            run.updates(KEPT, NUM_UPDATES)
            ends[stage] = run.backend.state_dict()
            note(f"{kind} {stage} end", difference(ends[stage], whole))
            note(
                f"{kind} {stage} rate",
                abs(run.backend.optimizer.param_groups[0]["lr"] - alone.backend.optimizer.param_groups[0]["lr"]),
            )
        for stage in range(4) if kind == "sgd" else (1, 3):
            again = distributed(kind, stage)
            again.backend.load_state_dict(halves[kind, stage])
            note(f"{kind} {stage} loaded", difference(again.backend.state_dict(), halves[kind, stage]))
            again.updates(KEPT, NUM_UPDATES)
            note(f"{kind} {stage} same", difference(again.backend.state_dict(), ends[stage]))
        elsewhere = local(kind)
        elsewhere.backend.load_state_dict(halves[kind, 3])
        elsewhere.updates(KEPT, NUM_UPDATES)
        note(f"{kind} 3 local", difference(elsewhere.backend.state_dict(), whole))
        if dist.get_rank() == 0:
            states = {str(stage): halves[kind, stage] for stage in range(4)}
            torch.save({"states": {**states, "local": half}, "whole": whole}, FOLDER / f"{kind}.pt")
    offload()
    for dtype in ("bfloat16", "float16"):
        low_precision(dtype)
    overflow()


def offload() -> None:
    """Sums of gradients in the host's memory are DeepSpeed's other code path."""
    alone = local("sgd")
    alone.updates(0, FEW)
    for stage, what in ((1, "optimizer"), (2, "optimizer"), (3, "parameters")):
        run = distributed("sgd", stage, offload=what)
        run.updates(0, FEW)
        note(f"offload {stage}", difference(run.backend.state_dict(), alone.backend.state_dict()))


def low_precision(dtype: str) -> None:
    exact = local("sgd")
    exact.updates(0, FEW)
    reference = exact.backend.state_dict()
    start = {"model": small_model().state_dict(), "optimizer": {}}
    moved = difference({**reference, "optimizer": {}}, start)
    for stage in (0, 2, 3):
        run = distributed("sgd", stage, dtype)
        losses = [loss for loss, _ in run.batches(0, 2 * FEW)]
        state = run.backend.state_dict()
        note(f"{dtype} {stage} skipped", FEW - run.backend.num_updates)
        note(f"{dtype} {stage} finite", not torch.tensor(losses).isfinite().all())
        note(f"{dtype} {stage} types", any(weight.dtype != torch.float32 for weight in state["model"].values()))
        note(f"{dtype} {stage} close", difference({**state, "optimizer": {}}, {**reference, "optimizer": {}}) / moved)


def overflow() -> None:
    """A scale far too large is halved until it fits; skipped updates move neither weights nor schedule."""
    for stage in (0, 2, 3):
        run = distributed("adamw", stage, "float16")
        state = run.backend.state_dict()
        run.backend.load_state_dict({**state, "scaler": {"scale": 2.0**26, "good_updates": 0}})
        updated = run.batches(0, 1)[0][1]
        after = run.backend.state_dict()
        note(f"overflow {stage} updated", updated or run.backend.num_updates)
        note(f"overflow {stage} moved", difference(after, state))
        note(f"overflow {stage} halved", abs(after["scaler"]["scale"] / 2.0**26 - 0.5))
        flags = [updated for _, updated in run.batches(1, 12)]
        note(f"overflow {stage} never trains", not flags[-1])
        note(f"overflow {stage} miscounted", abs(run.backend.num_updates - sum(flags)))
        state = run.backend.state_dict()
        note(f"overflow {stage} scaler", abs(state["scaler"]["scale"] * 2 ** flags.count(False) / 2.0**25 - 1))
        again = distributed("adamw", stage, "float16")
        again.backend.load_state_dict(state)
        note(f"overflow {stage} kept", again.backend.state_dict()["scaler"] != state["scaler"])
    run = distributed("adamw", 1)
    for parameter in run.backend.network.parameters():
        parameter.data.mul_(float("nan"))
    with contextlib.suppress(UserError):
        run.batches(0, 1)
        note("nan is not refused", 1)


def resume() -> None:
    """States of other stages, of two processes and of one, go on here."""
    pairs = {"sgd": ((1, "3"), (2, "local")), "adamw": ((0, "2"), (3, "1"))}
    for kind, targets in pairs.items():
        saved = torch.load(FOLDER / f"{kind}.pt", weights_only=True)
        for stage, source in targets:
            run = distributed(kind, stage)
            run.backend.load_state_dict(saved["states"][source])
            run.updates(KEPT, NUM_UPDATES)
            note(f"{kind} {source} to {stage}", difference(run.backend.state_dict(), saved["whole"]))


def run(work: str, folder: Path) -> None:
    """One process: trains, or goes on with what two have trained."""
    global FOLDER
    FOLDER = folder
    dist.init_process_group("gloo")
    if dist.get_rank() == 0:
        (FOLDER / "split_small_weights.json").write_text(
            '{"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}'
        )
    dist.barrier()
    {"train": train, "resume": resume}[work]()
    if dist.get_rank() == 0:
        RESULTS["world"] = dist.get_world_size()
        (FOLDER / f"{work}.json").write_text(json.dumps(RESULTS))
    dist.destroy_process_group()
