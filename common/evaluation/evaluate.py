"""One pass over a split with several ways to answer, each timed; nothing is replaced and nothing hidden."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from revit.common.data.batch import Batch
from revit.common.data.broken import Failure
from revit.common.evaluation.label_sets import overlap
from revit.common.methods.revit.adaptive import AdaptiveClassifier, AdaptiveOutput, batch_at
from revit.common.models.base import merge_views, view_probabilities
from revit.common.serving.batches import StreamBatches, Transfer
from revit.common.serving.reading import InFlight
from revit.common.system.device import autocast
from revit.common.system.distributed import ALONE, DistributedContext
from revit.common.system.log import progress
from revit.common.timing.clock import Stopwatch


class Streamed:
    """An adaptive classifier over a whole split, as the inference engine runs it. Views that were given the same token grid
    run together, though other batches came between them: at each grid as many as its limit, and what is left at the end.

    Grids are assigned batch by batch, so a policy that follows what was spent sees what it saw without this. The pixels of
    inputs that wait for others are kept, of at most as many as the limits of all grids together.
    """

    def __init__(self, classifier: AdaptiveClassifier, pixels: nn.Module, device: torch.device) -> None:
        """Take `pixels`, which makes of uint8 inputs normalised floats on `device`."""
        longest = classifier.grids[0]
        limits = [batch_at(grid, longest, classifier.max_batch) for grid in classifier.grids]
        self._clock, self._normalising, self._pixels = Stopwatch(device), Stopwatch(device), pixels
        self._batches = StreamBatches(classifier, self._normalised, Transfer(device), limits, math.inf)
        self._all: list[InFlight] = []
        self._open: list[InFlight] = []

    @property
    def seconds(self) -> float:
        """Seconds spent on assigning and answering so far; normalising, which all runners of a pass share, is not in it."""
        return self._clock.seconds - self._normalising.seconds

    def add(self, views: Tensor, num_views: int) -> None:
        """Take uint8 (B * V, C, ...) of B inputs. Raise MemoryError where a single view does not fit."""
        # Copies: an input that waits must not keep its whole batch in memory.
        new = [InFlight(None, one.clone()) for one in views.cpu().unflatten(0, (-1, num_views))]
        self._all += new
        self._open += new
        with self._clock:
            self._batches.add(new)
            self._batches.run_due()
        self._let_go()

    def finish(self) -> tuple[Tensor, Tensor]:
        """Return logits (N, V, K) and grid indices (N, V) of all inputs, in their order; empty where none came."""
        with self._clock:
            self._batches.finish()
        self._let_go()
        if not self._all:
            return torch.empty(0), torch.empty(0, dtype=torch.long)
        logits = [torch.stack([row for row in one.logits if row is not None]) for one in self._all]
        return torch.stack(logits), torch.tensor([one.grid_index for one in self._all])

    def _normalised(self, inputs: Tensor) -> Tensor:
        with self._normalising:
            normalised: Tensor = self._pixels(inputs)
        return normalised

    def _let_go(self) -> None:
        """Drop the pixels of what is done."""
        for one in self._open:
            if one.error is not None:
                raise MemoryError(one.error)
            if one.is_done:
                one.views = None
                one.reductions.clear()
        self._open = [one for one in self._open if not one.is_done]


Runner = Callable[[Tensor], AdaptiveOutput] | Streamed
"""Answers normalised inputs batch by batch, or batches its inputs by itself."""


@dataclass
class Answers:
    """Answers of one runner to N samples in V views."""

    logits: Tensor
    """Logits (N, V, K)."""
    grid_index: Tensor
    """Index (N, V) of each view's grid; 0 is the longest."""
    seconds: float
    """Time of computing."""


@dataclass
class Evaluation:
    """Answers of all runners to the N samples that could be read, and the failures."""

    ids: Tensor
    targets: Tensor
    answers: dict[str, Answers]
    failures: list[Failure]
    salvaged: list[Failure] = field(default_factory=list)
    """Samples that were read, but not whole, each with what is missing."""
    limits: Tensor | None = None
    """Log odds (grids, K) from which on a class is said, where a sample may have several labels; None: 0 for all."""

    @property
    def num_evaluated(self) -> int:
        return len(self.ids)

    @property
    def several(self) -> bool:
        """Whether a sample may have several labels; `targets` are then float (N, K), 0 or 1."""
        return self.targets.ndim == 2

    def probabilities(self, name: str, how: str) -> Tensor:
        """Return a runner's probabilities (N, K), views merged."""
        return view_probabilities(self.answers[name].logits, how, self.several)

    def decided(self, name: str) -> Tensor:
        """Return a runner's logits (N, V, K); where a sample may have several labels, as far as they are above what the class
        needs to be said at the view's grid."""
        answers = self.answers[name]
        return answers.logits if self.limits is None else answers.logits - self.limits[answers.grid_index]

    def said(self, decided: Tensor) -> Tensor:
        """Say of `decided` (N, V, K) which classes are said, (N, K) bool: by the mean of the views, however they are merged."""
        return decided.mean(dim=1) >= 0

    def correct(self, logits: Tensor, how: str, topk: int = 1) -> Tensor:
        """Say of logits (N, V, K) whether the target is among the `topk` best classes of the merged views, (N,) bool. Where a
        sample may have several labels: of `decided`, how much what is said shares with its labels, (N,) float, see `overlap`."""
        if self.several:
            return overlap(self.said(logits), self.targets)
        scores = merge_views(logits, how)
        best = scores.topk(min(topk, scores.shape[1]), dim=1).indices
        return (best == self.targets.unsqueeze(1)).any(dim=1)

    def percent(self, logits: Tensor, how: str, topk: int = 1) -> float:
        """Return the share of the samples that are `correct`, in percent."""
        return 100 * float(self.correct(logits, how, topk).double().mean())


def grid_runners(classifier: AdaptiveClassifier) -> dict[str, Runner]:
    """Make one runner per grid of the model, under the grid's name: every input at that grid."""

    def at(index: int, inputs: Tensor) -> AdaptiveOutput:
        return classifier(inputs, torch.full((len(inputs),), index, device=inputs.device))

    return {grid.name: partial(at, index) for index, grid in enumerate(classifier.model.grids)}


@torch.inference_mode()
def evaluate(
    runners: Mapping[str, Runner],
    loader: Iterable[Batch],
    pixels: nn.Module,
    device: torch.device,
    dtype: str = "float32",
    num_samples: int | None = None,
    description: str = "evaluate",
    context: DistributedContext = ALONE,
) -> Evaluation:
    """Run every runner on every batch; models must be in eval mode. Raise ValueError if no sample could be read, or if
    an answer is not finite: a damaged model would be scored as a poor one.

    Where several processes each have a share of the samples in their `loader`, rank 0 gets all answers in the order of
    the list, and the others keep their own.
    """
    ids: list[Tensor] = []
    targets: list[Tensor] = []
    failures: list[Failure] = []
    salvaged: list[Failure] = []
    said: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in runners}
    clocks = {name: Stopwatch(device) for name in runners}
    own_share = None if num_samples is None else len(range(context.rank, num_samples, context.size))
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
                inputs, views = pixels(batch.inputs), (-1, batch.num_views)
                for name, runner in runners.items():
                    if isinstance(runner, Streamed):
                        runner.add(read.inputs, batch.num_views)
                        continue
                    with clocks[name]:
                        output = runner(inputs)
                    logits = output.prediction.float().unflatten(0, views).cpu()
                    said[name].append((logits, output.grid_index.unflatten(0, views).cpu()))
    answers = {}
    for name, runner in runners.items():
        if isinstance(runner, Streamed):
            with autocast(device, dtype):
                answers[name] = Answers(*runner.finish(), runner.seconds)
        else:
            all_logits, indices = zip(*said[name]) if said[name] else ((), ())
            answers[name] = Answers(_cat(all_logits), _cat(indices), clocks[name].seconds)
    own = Evaluation(_cat(ids), _cat(targets), answers, failures, salvaged)
    if not context.any(own.num_evaluated > 0):
        failures = [failure for some in context.gather(failures) for failure in some]
        first = f"; the first was {failures[0].path}: {failures[0].reason}" if failures else ""
        raise ValueError(f"no sample could be evaluated: all {len(failures)} failed{first}")
    if context.any(any(not bool(one.logits.isfinite().all()) for one in answers.values())):
        raise ValueError(
            "the model's answers are not all numbers; its weights are damaged, or run.dtype is too narrow for them"
        )
    parts = context.gather_to_main(own)
    return _joined(parts) if len(parts) > 1 else own


def _joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Join the answers of several processes in the order of the sample list; the time is the slowest one's."""
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
            grid_index=torch.cat([one.grid_index for one in some])[order],
            seconds=max(one.seconds for one in some),
        )
    targets = torch.cat([part.targets for part in parts])[order]
    return Evaluation(ids[order], targets, answers, failures, salvaged)


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(tensors)) if tensors else torch.empty(0, dtype=torch.int64)
