"""However many token grids learn from a batch, it is read, moved, normalised, mixed and stepped on once; and no number is
asked of the device in between."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from revit.common.config.sections import OptimOptions, RunOptions, ScheduleOptions, TrainOptions
from revit.common.data.batch import Batch
from revit.common.data.broken import BrokenFiles
from revit.common.data.dataset import RobustDataset, Sample
from revit.common.data.loader import Loader
from revit.common.data.sampler import EpochSampler
from revit.common.methods.flexivit import FlexiTask, FlexiViTOptions
from revit.common.methods.revit.task import AssignerTask, ResizableTask
from revit.common.methods.task import Progress, Task
from revit.common.methods.toe import Growth, ToETask, TokenExpansion
from revit.common.models.base import Normalizer
from revit.common.system.errors import UserError
from revit.common.system.log import RunLog
from revit.common.training.meter import LossReader
from revit.common.training.optim import build_optimizer, build_scheduler
from revit.common.training.parallel.backend import LocalBackend
from revit.common.training.trainer import Trainer
from revit.image.models.transformers import DeiT

CPU = torch.device("cpu")
GRIDS = ["4x4", "3x3", "2x2"]
SAMPLES, BATCH, ACCUMULATE, EPOCHS = 8, 2, 2, 2
BATCHES, UPDATES = EPOCHS * SAMPLES // BATCH, EPOCHS * SAMPLES // BATCH // ACCUMULATE


def small_model(**settings) -> DeiT:
    torch.manual_seed(3)
    return DeiT(12, GRIDS, 3, 16, 2, 2, **settings)


def make_loader(read: Counter) -> Loader:
    def load(index: int, generator: torch.Generator) -> Sample:
        read["decoded"] += 1
        pixels = torch.randint(0, 256, (1, 3, 12, 12), dtype=torch.uint8, generator=generator)
        return Sample(pixels, index % 3)

    dataset = RobustDataset(load, SAMPLES, seed=1, training=True)
    sampler = EpochSampler(SAMPLES, seed=1, shuffle=True)
    return Loader(dataset, sampler, BrokenFiles(SAMPLES), BATCH, drop_last=True)


def run(folder, network: nn.Module, task: Task, read: Counter, **more):
    options = TrainOptions(
        batch_size=BATCH,
        effective_batch=BATCH * ACCUMULATE,
        clip_grad_norm=1.0,
        ema={"decay": 0.5},
        optim={"name": "adamw", "lr": 1e-3},
        schedule={"name": "constant", "epochs": EPOCHS},
    )
    return Trainer(
        "model",
        network,
        task,
        lambda rank, num_ranks: make_loader(read),
        options,
        RunOptions(dir=folder, device="cpu", save_every=1, log_every=2),
        device=CPU,
        normalizer=more.pop("normalizer", Normalizer((0.5,) * 3, (0.5,) * 3)),
        log=RunLog(folder / "log.jsonl"),
        **more,
    ).train()


def plain() -> tuple[nn.Module, Task]:
    return small_model(), ResizableTask()


def token_expansion() -> tuple[nn.Module, Task]:
    model = small_model()
    model.reducer = TokenExpansion(Growth((0.5, 0.75, 1.0), 0.25), 16)
    return model, ToETask(ResizableTask(), model.reducer, "updates", EPOCHS)


def flexible() -> tuple[nn.Module, Task]:
    model = small_model(patch_embed="flexi", distillation="none", kernel_size=6, position_grid=2)
    stages = FlexiViTOptions(grids=tuple(GRIDS)).stages()
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 3)).requires_grad_(False)
    return model, FlexiTask(ResizableTask(), stages, 0, teacher, label_weight=0.5)


@pytest.fixture
def counted(monkeypatch):
    """How often each thing was done."""
    found: Counter = Counter()

    def count(owner, name: str, what: str) -> None:
        original = getattr(owner, name)

        def counting(*given, **more):
            found[what] += 1
            return original(*given, **more)

        monkeypatch.setattr(owner, name, counting)

    count(Batch, "to", "moved")
    count(Normalizer, "forward", "normalised")
    count(torch.optim.AdamW, "step", "stepped")
    count(torch.optim.AdamW, "zero_grad", "cleared")
    count(nn.utils, "clip_grad_norm_", "clipped")
    count(ModelEmaV3, "update", "averaged")
    count(LocalBackend, "backward", "backward")
    return found


@pytest.mark.parametrize(("make", "passes"), [(plain, len(GRIDS)), (token_expansion, len(GRIDS)), (flexible, 1)])
def test_all_grids_share_everything_but_their_passes(tmp_path, counted, make, passes):
    model, task = make()
    model.register_forward_hook(lambda *_: counted.update(["forward"]))
    if getattr(task, "teacher", None) is not None:
        task.teacher.register_forward_hook(lambda *_: counted.update(["taught"]))

    def augment(inputs, batch):
        counted["augmented"] += 1
        return inputs, batch

    run(tmp_path, model, task, counted, augment=augment)
    per_batch = dict.fromkeys(["moved", "normalised", "augmented"], BATCHES)
    per_update = dict.fromkeys(["stepped", "cleared", "clipped", "averaged"], UPDATES)
    taught = {"taught": BATCHES} if passes == 1 else {}
    per_grid = dict.fromkeys(["forward", "backward"], passes * BATCHES)
    assert counted == {"decoded": EPOCHS * SAMPLES, **per_batch, **per_update, **per_grid, **taught}


class Asked(TorchDispatchMode):
    """Notes the operations whose answer the program waits for."""

    waits = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(
            one is not None and one.dtype == torch.bool for one in (args[1] if len(args) > 1 else ())
        )
        if name.startswith(self.waits) or by_mask:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def assigner() -> tuple[nn.Module, Task]:
    labels, weights = torch.tensor([0, 1, -1, 2, 0, 1, 2, -1]), torch.tensor([1.0, 2.0, 0.5])
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 3)), AssignerTask(labels, weights, mirror=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [plain, token_expansion, flexible, assigner])
def test_an_update_asks_the_device_for_no_number(make, dtype):
    model, task = make()
    backend = LocalBackend(CPU, dtype, clip_grad_norm=1.0)
    optimizer = build_optimizer(model, OptimOptions(name="adamw", lr=1e-3))
    backend.prepare(model.train(), optimizer, build_scheduler(optimizer, ScheduleOptions(name="constant"), 1))
    average, pixels, reader = ModelEmaV3(model, 0.9), Normalizer((0.5,) * 3, (0.5,) * 3), LossReader(True)
    numbers = torch.tensor([0, 1])
    batch = Batch(torch.zeros(2, 3, 12, 12, dtype=torch.uint8), numbers, numbers)
    for update in range(2):
        # The loss of the batch before is read while this one's work is queued, and is a number of the host's by then.
        with Asked() as asked, backend.autocast():
            task.begin(Progress(update, update / 2, (update + 1) / 2))
            losses = {}
            for name, loss in task.losses(model, pixels(batch.inputs), batch):
                backend.backward(loss)
                losses[name] = loss.detach()
            backend.step()
            average.update(model)
        assert asked.seen == []
        read = reader.put(losses, batch, update)
        assert [one.update for one in read] == ([update - 1] if update else [])
    (last,) = reader.rest()
    assert last.values == {name: float(loss) for name, loss in losses.items()}
    assert (last.update, last.num_samples, reader.rest()) == (1, 2, [])


def works_behind(monkeypatch) -> None:
    """As if the CPU were a GPU."""
    original = LocalBackend.__init__

    def made(self, *given, **more) -> None:
        original(self, *given, **more)
        self.works_behind = True

    monkeypatch.setattr(LocalBackend, "__init__", made)


def losses_logged(folder) -> list[dict[str, float]]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["event"] in ("train", "epoch")]


def test_losses_read_late_are_the_same(tmp_path, monkeypatch):
    found = []
    for name in ("at once", "late"):
        if name == "late":
            works_behind(monkeypatch)
        torch.manual_seed(0)
        model, task = plain()
        found.append(run(tmp_path / name, model, task, Counter()))
    assert losses_logged(tmp_path / "late") == losses_logged(tmp_path / "at once")
    assert len(losses_logged(tmp_path / "late")) == UPDATES // 2 + EPOCHS
    for name, weight in found[0]["model"].items():
        assert torch.equal(weight, found[1]["model"][name]), name


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("bad", [0, 5])
def test_a_loss_that_is_not_finite_is_found_before_it_is_saved(tmp_path, monkeypatch, late, bad):
    """Batch `bad` of eight; every update is saved."""
    if late:
        works_behind(monkeypatch)
    model, task = plain()
    seen = Counter()

    def augment(inputs, batch):
        seen["batches"] += 1
        seen["bad"] = seen["batches"] - 1 == bad
        return (inputs * float("nan") if seen["bad"] else inputs), batch

    update = bad // ACCUMULATE
    with pytest.raises(UserError, match=rf"not finite at update {update}: .*sample ids of the batch: \["):
        run(tmp_path, model, task, Counter(), augment=augment)
    states = sorted((tmp_path / "states" / "model").glob("*.pt"))
    assert len(states) == min(update, 2)  # the newest two are kept
    for state in states:
        kept = torch.load(state, weights_only=True)
        assert all(weight.isfinite().all() for weight in kept["backend"]["model"].values())
