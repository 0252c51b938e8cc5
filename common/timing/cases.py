"""The cases of a throughput run: a plain model at every grid and adaptively, and its peers, in every dtype and batch size."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.costs.flops import count
from revit.common.costs.per_grid import count_costs
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.models.base import GridModel
from revit.common.system.device import DTYPES, allow_graphs
from revit.common.timing.peers import Reference, checked_twin, foreign_gmacs
from revit.common.timing.throughput import Case, weight_bytes

OURS = "ours"
"""The plain model, as it is trained."""


def model_cases(
    config: str,
    model: GridModel,
    assigner: nn.Module | None,
    input_shape: Sequence[int],
    device: torch.device,
    dtypes: Sequence[str],
    batches: Sequence[int],
) -> Iterator[Case]:
    """Every grid of `model`, and with an assigner the adaptive pass; inputs are noise of `input_shape` (batch 1). Not
    compiled: `served_cases` has what compiling makes of it."""
    costs = count_costs(model, assigner, input_shape)
    evenly = sum(costs.grids.values()) / len(costs.grids) + costs.assigner
    for dtype in dtypes:
        held = copy.deepcopy(model).to(device, DTYPES[dtype]).eval()
        held_assigner = (
            copy.deepcopy(assigner).to(device, DTYPES[dtype]).eval() if assigner is not None else None
        )
        for batch in batches:
            inputs = noise(input_shape, batch, device, dtype)
            for grid, cost in zip(model.grids, costs.grids.values()):
                case = (config, grid.name, dtype, False, batch, cost)
                yield Case(OURS, *case, partial(held, inputs, grid), weight_bytes=weight_bytes(held))
            if held_assigner is not None:
                classifier = AdaptiveClassifier(held, held_assigner, max_batch=batch)
                yield Case(
                    OURS,
                    *(config, "adaptive", dtype, False, batch, evenly),
                    even_pass(classifier, inputs),
                    num_calls=len(model.grids),
                    weight_bytes=weight_bytes(classifier),
                )


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
    """Another implementation of `model` at its longest grid, which `make_twin` fills with our weights, once its outputs
    were compared with ours: at its defaults (`DEFAULTS`) and in every dtype.

    Raises:
        UserError: there is no such implementation of this model.
        RuntimeError: there is one, and it answers otherwise.
    """
    longest = model.grids[0]
    cost = count(model, input_shape, longest).gmacs
    twin = checked_twin(make_twin, model, noise(input_shape, 1, torch.device("cpu"), "float32"))
    for dtype, fast in settings(dtypes, compiled):
        held = copy.deepcopy(twin).to(device, DTYPES[dtype]).eval()
        runner = _compiled(held) if fast else held
        for batch in batches:
            inputs = noise(input_shape, batch, device, dtype)
            if fast and not compiles(name, dtype, partial(runner, inputs)):
                continue
            case = (config, longest.name, dtype, fast, batch, cost)
            yield Case(name, *case, partial(runner, inputs), weight_bytes=weight_bytes(held))


DEFAULTS = ("float32", False)
"""In which other implementations come: dtype, and whether compiled."""


def settings(dtypes: Sequence[str], compiled: Sequence[bool]) -> list[tuple[str, bool]]:
    """Dtype and whether compiled, of what is timed of a peer: its defaults, whatever is asked for, and all that is."""
    return list(dict.fromkeys([DEFAULTS, *((dtype, fast) for dtype in dtypes for fast in compiled)]))


def compiles(name: str, dtype: str, run: Callable[[], Any]) -> bool:
    """Whether the compiler copes with somebody else's code; where it does not, a line on standard error says why."""
    try:
        with torch.inference_mode():
            run()
    except Exception as error:  # whatever a compiler makes of foreign code
        print(f"no compiled {name} in {dtype}: {_first_line(error)}", file=sys.stderr)
        return False
    return True


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip() or 'no reason given'}".splitlines()[0]


OTHER_ARCHITECTURE = "another architecture"
"""In the column of configurations, of what has none here."""


def reference_cases(
    reference: Reference,
    device: torch.device,
    dtypes: Sequence[str],
    batches: Sequence[int],
    compiled: Sequence[bool] = (False,),
) -> Iterator[Case]:
    """Another architecture at its own input size, which stands where ours have the token grid; nothing is compared. Timed
    at its defaults and in every dtype, as a twin is.

    In bfloat16 it holds bfloat16 weights; where an operator of it does not exist so (pooling over time, on CPUs), it runs
    under autocast instead, as its users would.

    Raises:
        UserError: what it is made with is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = reference.make().eval()
    shape, cost = reference.input_shape, foreign_gmacs(model, reference.input_shape)
    for dtype, fast in settings(dtypes, compiled):
        held = copy.deepcopy(model).to(device, DTYPES[dtype])
        mixed = False
        try:
            with torch.inference_mode():
                held(noise(shape, 1, device, dtype))
        except NotImplementedError:
            held, mixed = copy.deepcopy(model).to(device), True
        runner = _compiled(held) if fast else held
        for batch in batches:
            inputs = noise(shape, batch, device, "float32" if mixed else dtype)
            run = _under_autocast(runner, inputs, DTYPES[dtype]) if mixed else partial(runner, inputs)
            if fast and not compiles(reference.name, dtype, run):
                continue
            case = (OTHER_ARCHITECTURE, reference.input_name, dtype, fast, batch, cost)
            yield Case(reference.name, *case, run, weight_bytes=weight_bytes(held))


def _under_autocast(model: Any, inputs: Tensor, dtype: torch.dtype) -> Callable[[], Any]:
    def run() -> Any:
        with torch.autocast(inputs.device.type, dtype):
            return model(inputs)

    return run


def _compiled(model: nn.Module) -> Any:
    """torch.compile's defaults, with one graph for every input shape and grid: by itself it would make the second batch size
    a graph for any, which is slower."""
    allow_graphs(model, 1024)
    return torch.compile(model, dynamic=False)


def noise(input_shape: Sequence[int], batch: int, device: torch.device, dtype: str) -> Tensor:
    """Normal inputs, as normalised pixels roughly are; always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *input_shape[1:], generator=generator).to(device, DTYPES[dtype])


def even_mixtures(num_grids: int, batch: int, device: torch.device) -> list[Tensor]:
    """Grid positions (batch,) for one call per grid: over all calls each grid gets the same share, whatever the batch size."""
    places = torch.arange(batch, device=device)
    return [(places + shift) % num_grids for shift in range(num_grids)]


def even_pass(classifier: AdaptiveClassifier, inputs: Tensor) -> Callable[[], list[Tensor]]:
    """A call for each of `even_mixtures` -> its logits. The assigner runs, and the mixture takes the place of what an untrained
    one says."""
    mixtures = even_mixtures(len(classifier.grids), len(inputs), inputs.device)

    def run() -> list[Tensor]:
        found = []
        for lengths in mixtures:
            classifier.assign(inputs)
            found.append(classifier(inputs, lengths).prediction)
        return found

    return run
