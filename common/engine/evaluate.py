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
from revit.common.engine.backend import autocast
from revit.common.engine.log import progress
from revit.common.tokens.adaptive import AdaptiveClassifier, AdaptiveOutput

Runner = Callable[[Tensor], AdaptiveOutput]


def merge_views(logits: Tensor, how: str) -> Tensor:
    """Logits per view (N, V, K) -> one score per sample and class (N, K).

    "logits" sums raw logits: what the published TimeSformer does, whatever its documentation says. "probabilities" is
    the mean of the views' softmax.
    """
    if how == "logits":
        return logits.sum(dim=1)
    return logits.softmax(dim=2).mean(dim=1)


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
) -> Evaluation:
    """Run every runner on every batch; models must be in eval mode. Raises ValueError if no sample could be read."""
    ids: list[Tensor] = []
    targets: list[Tensor] = []
    failures: list[Failure] = []
    collected = {name: _Collected() for name in runners}
    with progress(description, num_samples) as update_bar:
        for batch in loader:
            batch = batch.to(device)
            failures += batch.failures
            update_bar(advance=len(batch.ids) + len(batch.failures))
            if not len(batch.ids):
                continue
            ids.append(batch.ids.cpu())
            targets.append(batch.targets.cpu())
            with autocast(device, dtype):
                inputs = pixels(batch.inputs)
                for name, runner in runners.items():
                    _run(runner, inputs, batch.num_views, collected[name])
    if not ids:
        raise ValueError(f"no sample could be evaluated: all {len(failures)} failed{_first(failures)}")
    answers = {
        name: Answers(torch.cat(one.logits), torch.cat(one.lengths), one.seconds)
        for name, one in collected.items()
    }
    return Evaluation(torch.cat(ids), torch.cat(targets), answers, failures)


def _run(runner: Runner, inputs: Tensor, num_views: int, into: _Collected) -> None:
    _wait(inputs.device)
    start = time.perf_counter()
    output = runner(inputs)
    _wait(inputs.device)
    into.seconds += time.perf_counter() - start
    into.logits.append(output.prediction.float().unflatten(0, (-1, num_views)).cpu())
    into.lengths.append(output.lengths.unflatten(0, (-1, num_views)).cpu())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _first(failures: Sequence[Failure]) -> str:
    return f"; the first was {failures[0].path}: {failures[0].reason}" if failures else ""
