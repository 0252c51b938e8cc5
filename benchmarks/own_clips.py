"""A few own clips: the small configuration against small convolutional networks from pytorchvideo, trained alike.

Sixty clips of six motions and sixty others to test, every one with a background of its own. All networks see the same frames with the
same augmentation, for as many epochs, with the same optimiser and schedule, from random weights.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import CONFIGS, CPU, arguments_of, chosen, finish
from modalities import load_run
from pytorchvideo.models.r2plus1d import create_r2plus1d
from pytorchvideo.models.x3d import create_x3d
from torch import Tensor, nn
from torch.nn import functional as F

from revit.common.data.batch import Batch
from revit.common.evaluation.intervals import wilson
from revit.common.methods.base import optim_of, task_of
from revit.common.methods.task import Progress
from revit.common.report.tables import print_table
from revit.common.system.command_line import parse, tool
from revit.common.system.log import RunLog
from revit.common.training.trainer import Trainer
from revit.video.demo import DemoOptions, make_motion_clips

CONFIG = CONFIGS / "video" / "own_clips_small.yaml"
CLASSES, FRAMES = 6, 8
CLIPS: dict[str, Any] = {
    "frame_pixels": 96,
    "frames": 24,
    "hard_share": 0.0,
    "easy": {"digit_pixels": (24, 40), "travel": (0.25, 0.5), "growth": (1.9, 2.4), "turn": (0.3, 0.5)},
}


@dataclass
class Classify:
    """Cross-entropy of a network that maps clips to logits."""

    label_smoothing: float

    def begin(self, now: Progress) -> None:
        """See `Task`."""

    def losses(self, model: nn.Module, inputs: Tensor, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """See `Task`."""
        yield "loss", F.cross_entropy(model(inputs), batch.targets, label_smoothing=self.label_smoothing)


def x3d_xs(side: int) -> nn.Module:
    """Return X3D-XS (Feichtenhofer 2020, table 3) for these clips: 3 M parameters."""
    return create_x3d(
        input_clip_length=FRAMES,
        input_crop_size=side,
        model_num_class=CLASSES,
        depth_factor=2.2,
        dropout_rate=0.5,
        head_activation=None,
    )


def r2plus1d(side: int) -> nn.Module:
    """Return pytorchvideo's R(2+1)D (Tran et al. 2018) at a quarter of its width, with a head for these clips: 2 M parameters."""
    pool = (FRAMES // 4, side // 32, side // 32)
    return create_r2plus1d(
        model_num_class=CLASSES, stem_dim_out=16, dropout_rate=0.5, head_pool_kernel_size=pool, head_activation=None
    )


PEERS: dict[str, Callable[[int], nn.Module]] = {"x3d_xs": x3d_xs, "r2plus1d": r2plus1d}


@torch.inference_mode()
def accuracy(network: nn.Module, loader: Any, normalizer: nn.Module) -> tuple[int, int]:
    """Return how many clips are answered rightly, and how many there are; views are averaged."""
    right = total = 0
    for batch in loader:
        answer = network(normalizer(batch.inputs))
        logits = (
            (answer if isinstance(answer, Tensor) else answer.logits).unflatten(0, (len(batch.targets), -1)).mean(1)
        )
        right += int((logits.argmax(-1) == batch.targets).sum())
        total += len(batch.targets)
    return right, total


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = arguments_of(
        __doc__,
        "python benchmarks/own_clips.py --epochs 200 --json own_clips.json",
        epochs=0,
        seed=0,
        train=60,
        test=60,
        threads=2,
    )
    arguments.add_argument("--models", default=",".join(["ours", *PEERS]), help="of ours, " + ", ".join(PEERS))
    values = parse(arguments, argv)
    torch.set_num_threads(values.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        made = make_motion_clips(
            DemoOptions(seed=values.seed, train_clips=values.train, val_clips=CLASSES, test_clips=values.test, **CLIPS),
            f"{folder}/clips",
        )
        settings = [
            f"data.source.train={made.root}/train",
            f"data.source.val={made.root}/test",
            "data.pixels.flip_probability=0",  # left and right are classes
            f"run.dir={folder}/run",
            f"run.seed={values.seed}",
            *([f"train.schedule.epochs={values.epochs}"] if values.epochs else []),
        ]
        options, modality = load_run(CONFIG, settings)
        normalizer = modality.normalizer(options)
        for name in chosen(values.models, ["ours", *PEERS]):
            torch.manual_seed(values.seed)
            task: Any = Classify(options.label_smoothing)
            if name == "ours":
                network: Any = modality.build_model(options, CLASSES)
                task = task_of(options, modality.task(options), modality, network)
            else:
                network = PEERS[name](options.data.pixels.crop_size)
            trainer = Trainer(
                name,
                network,
                task,
                lambda rank, ranks: modality.train_loader(options, "train", options.train.batch_size, rank, ranks),
                options.train.model_copy(update={"optim": optim_of(options)}),
                options.run,
                device=CPU,
                normalizer=normalizer,
                log=RunLog(Path(folder) / f"{name}.jsonl", False, None),
                augment=modality.batch_augment(options, CLASSES),
            )
            begun = time.perf_counter()
            network.load_state_dict(trainer.train()["model"])
            seconds = time.perf_counter() - begun
            network.eval()
            right, total = accuracy(network, modality.eval_loader(options, "test", 4), normalizer)
            low, high = wilson(right / total, total)
            rows.append(
                {
                    "name": name,
                    "parameters": sum(one.numel() for one in network.parameters()),
                    "top1": 100 * right / total,
                    "interval": f"{100 * low:.0f} to {100 * high:.0f}",
                    "minutes": seconds / 60,
                }
            )
            columns = {
                "name": "",
                "parameters": "parameters",
                "top1": "top-1",
                "interval": "95 %",
                "minutes": "minutes",
            }
            print_table(
                f"{values.train} clips, {options.train.schedule.epochs} epochs, chance {100 / CLASSES:.1f}",
                columns,
                rows[-1:],
            )
    return finish(__file__, argv, values, rows)


if __name__ == "__main__":
    sys.exit(main())
