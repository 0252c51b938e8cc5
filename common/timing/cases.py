"""The cases of a throughput run: a plain model at every grid and adaptively, and its peers, in every dtype and batch size."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.costs.flops import Costs, count, count_costs
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.models.base import GridModel
from revit.common.system.device import DTYPES, allow_graphs, autocast
from revit.common.timing.measure import Case
from revit.common.timing.memory import weight_bytes
from revit.common.timing.peers import Reference, checked_twin, foreign_gmacs

OURS = "ours"
"""Name of the plain model, as it is trained."""


def model_cases(
    config: str,
    model: GridModel,
    assigner: nn.Module | None,
    input_shape: Sequence[int],
    device: torch.device,
    dtypes: Sequence[str],
    batches: Sequence[int],
) -> Iterator[Case]:
    """Yield every grid of `model`, and with an assigner the adaptive pass; inputs are noise of `input_shape` (batch 1). Not
    compiled: `served_cases` has what compiling makes of it."""
    costs = count_costs(model, assigner, input_shape)
    for dtype in dtypes:
        classifier = copy.deepcopy(AdaptiveClassifier(model, assigner, max(batches))).to(device, DTYPES[dtype]).eval()
        for batch in batches:
            inputs = noise(input_shape, batch, device, dtype)
            yield from cases_of(classifier, inputs, costs, (OURS, config), (dtype, False))


def cases_of(
    classifier: AdaptiveClassifier, inputs: Tensor, costs: Costs, names: tuple[str, str], how: tuple[str, bool]
) -> Iterator[Case]:
    """Yield every grid, and with an assigner the pass that gives each the same share of the `inputs`.

    names: of implementation and configuration.  how: dtype, and whether compiled.
    """
    model, batch, grids = classifier.model, len(inputs), classifier.grids
    for grid in grids:
        run, cost = partial(model, inputs, grid), costs.grids[grid.name]
        yield Case(*names, grid.name, *how, batch, cost, run, weight_bytes=weight_bytes(model))
    if classifier.assigner is not None:
        mixed, cost = even_pass(classifier, inputs), sum(costs.grids.values()) / len(grids) + costs.assigner
        yield Case(*names, "adaptive", *how, batch, cost, mixed, len(grids), weight_bytes(classifier))


def peer_cases(
    name: str,
    make_twin: Callable[[Any], nn.Module],
    config: str,
    model: GridModel,
    input_shape: Sequence[int],
    device: torch.device,
    dtypes: Sequence[str],
    batches: Sequence[int],
    compiled: Sequence[bool] = (False,),
) -> Iterator[Case]:
    """Yield another implementation of `model` at its longest grid, filled with our weights by `make_twin`, once its outputs
    were compared with ours: at its defaults (`DEFAULTS`) and in every dtype.

    Raises:
        UserError: there is no such implementation of this model.
        RuntimeError: there is one, and it answers otherwise.
    """
    longest = model.grids[0]
    cost = count(model, input_shape, longest).gmacs
    twin = checked_twin(make_twin, model, noise(input_shape, 1, torch.device("cpu"), "float32"))
    what = (name, config, longest.name)
    yield from _foreign_cases(what, twin, cost, input_shape, device, dtypes, batches, compiled)


OTHER_ARCHITECTURE = "another architecture"
"""Name in the column of configurations for models that have none here."""


def reference_cases(
    reference: Reference,
    device: torch.device,
    dtypes: Sequence[str],
    batches: Sequence[int],
    compiled: Sequence[bool] = (False,),
) -> Iterator[Case]:
    """Yield another architecture at its own input size, which stands where ours have the token grid; nothing is compared.
    Timed at its defaults and in every dtype, as a twin is.

    Raises:
        UserError: what it is made with is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = reference.make().eval()
    shape = reference.input_shape
    what = (reference.name, OTHER_ARCHITECTURE, "x".join(map(str, shape[2:])))
    yield from _foreign_cases(what, model, foreign_gmacs(model, shape), shape, device, dtypes, batches, compiled)


DEFAULTS = ("float32", False)
"""Dtype, and whether compiled, in which other implementations come."""


def _foreign_cases(
    what: tuple[str, str, str],
    model: nn.Module,
    cost: float | None,
    input_shape: Sequence[int],
    device: torch.device,
    dtypes: Sequence[str],
    batches: Sequence[int],
    compiled: Sequence[bool],
) -> Iterator[Case]:
    """Yield somebody else's model at its defaults, whatever is asked for, and in all that is.

    In bfloat16 it holds bfloat16 weights; where an operator of it does not exist so (pooling over time, on CPUs), it runs
    under autocast instead, as its users would.
    """
    for dtype, fast in dict.fromkeys([DEFAULTS, *((dtype, fast) for dtype in dtypes for fast in compiled)]):
        held = copy.deepcopy(model).to(device, DTYPES[dtype])
        mixed = False
        try:
            with torch.inference_mode():
                held(noise(input_shape, 1, device, dtype))
        except NotImplementedError:
            held, mixed = copy.deepcopy(model).to(device), True
        runner = _compiled(held) if fast else held
        for batch in batches:
            inputs = noise(input_shape, batch, device, "float32" if mixed else dtype)
            run = partial(_answer, runner, inputs, dtype) if mixed else partial(runner, inputs)
            if fast and not _compiles(what[0], dtype, run):
                continue
            yield Case(*what, dtype, fast, batch, cost, run, weight_bytes=weight_bytes(held))


def _answer(model: nn.Module, inputs: Tensor, dtype: str) -> Any:
    with autocast(inputs.device, dtype):
        return model(inputs)


def _compiles(name: str, dtype: str, run: Callable[[], Any]) -> bool:
    """Say whether the compiler copes with somebody else's code; where it does not, a line on standard error says why."""
    try:
        with torch.inference_mode():
            run()
    except Exception as error:  # whatever a compiler makes of foreign code
        reason = f"{type(error).__name__}: {str(error).strip() or 'no reason given'}".splitlines()[0]
        print(f"no compiled {name} in {dtype}: {reason}", file=sys.stderr)
        return False
    return True


def _compiled(model: nn.Module) -> nn.Module:
    """Compile with torch's defaults, but a graph for every input shape: by itself torch would make the second batch size a
    graph for any, which is slower."""
    allow_graphs(model, 1024)
    return torch.compile(model, dynamic=False)  # type: ignore[return-value]


def noise(input_shape: Sequence[int], batch: int, device: torch.device, dtype: str) -> Tensor:
    """Draw normal inputs, as normalised pixels roughly are; always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *input_shape[1:], generator=generator).to(device, DTYPES[dtype])


def deal_grids(shares: Sequence[float], number: int, seed: int = 0) -> Tensor:
    """Return the grid indices (number,) of inputs in shares as near as whole inputs come to them, shuffled."""
    exact = [number * share / sum(shares) for share in shares]
    counts = [int(one) for one in exact]
    nearest = sorted(range(len(shares)), key=lambda one: counts[one] - exact[one])
    for index in nearest[: number - sum(counts)]:
        counts[index] += 1
    indices = torch.arange(len(shares)).repeat_interleave(torch.tensor(counts))
    return indices[torch.randperm(number, generator=torch.Generator().manual_seed(seed))]


def even_mixtures(num_grids: int, batch: int, device: torch.device) -> list[Tensor]:
    """Return grid indices (batch,) for one call per grid: over all calls each grid gets the same share, for any batch size."""
    places = torch.arange(batch, device=device)
    return [(places + shift) % num_grids for shift in range(num_grids)]


def even_pass(classifier: AdaptiveClassifier, inputs: Tensor) -> Callable[[], list[Tensor]]:
    """Return a call that answers once with each of `even_mixtures`, which stand in for what the untrained assigner says."""
    mixtures = even_mixtures(len(classifier.grids), len(inputs), inputs.device)

    def run() -> list[Tensor]:
        found = []
        for grid_index in mixtures:
            classifier.assign(inputs)
            found.append(classifier(inputs, grid_index).prediction)
        return found

    return run
