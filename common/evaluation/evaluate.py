"""One pass over a split with several ways to answer, each timed; nothing is replaced and nothing hidden."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from revit.common.data.batch import Batch
from revit.common.data.broken import Failure
from revit.common.evaluation.streamed import Streamed
from revit.common.methods.revit.adaptive import AdaptiveClassifier, AdaptiveOutput
from revit.common.models.base import merge_views
from revit.common.system.device import autocast
from revit.common.system.distributed import ALONE, World
from revit.common.system.log import progress

Runner = Callable[[Tensor], AdaptiveOutput] | Streamed
"""Answers normalised inputs batch by batch, or batches its inputs by itself."""


@dataclass
class Answers:
    """What one runner said: logits (N, V, K), grid positions (N, V), and how long it computed."""

    logits: Tensor
    lengths: Tensor
    seconds: float


@dataclass
class Evaluation:
    """Answers of all runners to the N samples that could be read, and the failures."""

    ids: Tensor
    targets: Tensor
    answers: dict[str, Answers]
    failures: list[Failure]
    salvaged: list[Failure] = field(default_factory=list)
    """Samples that were read, but not whole, each with what is missing."""

    @property
    def num_evaluated(self) -> int:
        return len(self.ids)

    def correct(self, logits: Tensor, how: str, topk: int = 1) -> Tensor:
        """(N, V, K) -> (N,) bool: the target is among the `topk` best classes of the merged views."""
        scores = merge_views(logits, how)
        best = scores.topk(min(topk, scores.shape[1]), dim=1).indices
        return (best == self.targets.unsqueeze(1)).any(dim=1)


def grid_runners(classifier: AdaptiveClassifier) -> dict[str, Runner]:
    """One runner per grid of the model, under the grid's name: every input at that length."""

    def at(position: int, inputs: Tensor) -> AdaptiveOutput:
        return classifier(inputs, torch.full((len(inputs),), position, device=inputs.device))

    return {grid.name: partial(at, position) for position, grid in enumerate(classifier.model.grids)}


@dataclass
class _Collected:
    logits: list[Tensor] = field(default_factory=list)
    lengths: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0


@torch.inference_mode()
def evaluate(
    runners: Mapping[str, Runner],
    loader: Iterable[Batch],
    pixels: nn.Module,
    device: torch.device,
    dtype: str = "float32",
    num_samples: int | None = None,
    description: str = "evaluate",
    world: World = ALONE,
) -> Evaluation:
    """Run every runner on every batch; models must be in eval mode. Raises ValueError if no sample could be read, or if
    an answer is not finite: a damaged model would be scored as a poor one.

    Where several processes each have a share of the samples in their `loader`, rank 0 gets all answers in the order of
    the list, and the others keep their own.
    """
    ids: list[Tensor] = []
    targets: list[Tensor] = []
    failures: list[Failure] = []
    salvaged: list[Failure] = []
    collected = {name: _Collected() for name in runners}
    own_share = None if num_samples is None else len(range(world.rank, num_samples, world.size))
    with progress(description, own_share) as update_bar:
        for read in loader:
            batch = read.to(device)
            failures += batch.failures
            salvaged += batch.remarks
            update_bar(advance=len(batch.ids) + len(batch.failures))
            if not len(batch.ids):
                continue
            ids.append(batch.ids.cpu())
            targets.append(batch.targets.cpu())
            with autocast(device, dtype):
                inputs = pixels(batch.inputs)
                for name, runner in runners.items():
                    if isinstance(runner, Streamed):
                        runner.add(read.inputs, batch.num_views)
                    else:
                        _run(runner, inputs, batch.num_views, collected[name])
    answers = {}
    for name, runner in runners.items():
        if isinstance(runner, Streamed):
            with autocast(device, dtype):
                answers[name] = Answers(*runner.finish(), runner.seconds)
        else:
            one = collected[name]
            answers[name] = Answers(_cat(one.logits), _cat(one.lengths), one.seconds)
    own = Evaluation(_cat(ids), _cat(targets), answers, failures, salvaged)
    if not world.any(own.num_evaluated > 0):
        failures = [failure for some in world.gather(failures) for failure in some]
        raise ValueError(f"no sample could be evaluated: all {len(failures)} failed{_first(failures)}")
    if world.any(any(not bool(one.logits.isfinite().all()) for one in answers.values())):
        raise ValueError(
            "the model's answers are not all numbers; its weights are damaged, or run.dtype is too narrow for them"
        )
    parts = world.gather_to_main(own)
    return _joined(parts) if len(parts) > 1 else own


def _joined(parts: Sequence[Evaluation]) -> Evaluation:
    """The answers of several processes in the order of the sample list; the time is the slowest one's."""
    failures = sorted((failure for part in parts for failure in part.failures), key=lambda one: one.id)
    salvaged = sorted((remark for part in parts for remark in part.salvaged), key=lambda one: one.id)
    parts = [part for part in parts if part.num_evaluated]
    ids = torch.cat([part.ids for part in parts])
    order = ids.argsort()
    answers = {}
    for name in parts[0].answers:
        some = [part.answers[name] for part in parts]
        answers[name] = Answers(
            logits=torch.cat([one.logits for one in some])[order],
            lengths=torch.cat([one.lengths for one in some])[order],
            seconds=max(one.seconds for one in some),
        )
    targets = torch.cat([part.targets for part in parts])[order]
    return Evaluation(ids[order], targets, answers, failures, salvaged)


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(tensors)) if tensors else torch.empty(0, dtype=torch.int64)


def _run(runner: Callable[[Tensor], AdaptiveOutput], inputs: Tensor, num_views: int, into: _Collected) -> None:
    _wait(inputs.device)
    start = time.perf_counter()
    output = runner(inputs)
    _wait(inputs.device)
    into.seconds += time.perf_counter() - start
    into.logits.append(output.prediction.float().unflatten(0, (-1, num_views)).cpu())
    into.lengths.append(output.grid_index.unflatten(0, (-1, num_views)).cpu())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _first(failures: Sequence[Failure]) -> str:
    return f"; the first was {failures[0].path}: {failures[0].reason}" if failures else ""
