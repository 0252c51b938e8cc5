"""Cases of a throughput run: the model as it is served, once its answers were compared with the plain model's."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from revit.common.costs.flops import count_costs
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.models.base import GridModel
from revit.common.serving.options import INT8
from revit.common.serving.runtime import Runtime
from revit.common.timing.cases import cases_of, even_mixtures, noise
from revit.common.timing.measure import Case
from revit.common.timing.peers import fill_zeros

SERVED = "ours, served"
LARGEST_DIFFERENCE = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01, INT8: 0.1}
"""Tolerance for logits beside the plain float32 model's, relative to their largest: about three times what rounding in a
dozen blocks makes."""
NEARLY_TIED = 0.5
"""Tolerance for token-reducing models in reduced precision: untrained they score tokens nearly alike, and which ones go then
depends on rounding (in the plain bfloat16 model as well). What answers wrongly is off by 1 or more."""


def served_cases(
    config: str,
    model: GridModel,
    assigner: nn.Module | None,
    input_shape: Sequence[int],
    device: torch.device,
    dtypes: Sequence[str],
    batches: Sequence[int],
    compiled: Sequence[bool] = (False,),
) -> Iterator[Case]:
    """Yield every grid of `model` by `Runtime`, and with an assigner the adaptive pass, like `model_cases` of the plain model.

    Inputs come in float32, as pixels are normalised. int8 is eager alone: compilers do not see into its products. Every
    case has answered before it is timed, and said what the plain model says in float32.

    Raises:
        RuntimeError: one answers otherwise; it is served wrongly, and its speed means nothing.
        UserError: int8 is asked for where there is none.
    """
    plain = copy.deepcopy(model).to(device).float().eval()
    fill_zeros(plain)
    limits = dict(LARGEST_DIFFERENCE)
    if model.reducer is not None:
        limits |= {dtype: NEARLY_TIED for dtype in limits if dtype != "float32"}
    costs = count_costs(model, assigner, input_shape)
    every = noise(input_shape, max(batches), device, "float32")
    with torch.inference_mode():
        expected = torch.stack([plain(every, grid).prediction for grid in model.grids])  # (k, B, K)
    for dtype, fast in [(one, fast) for one in dtypes for fast in compiled if not (fast and one == INT8)]:
        runtime = Runtime(plain, device, dtype, fast, max(batches))
        served = AdaptiveClassifier(plain, assigner, max(batches)).served_by(runtime).to(device)
        for batch in batches:
            for index, case in enumerate(cases_of(served, every[:batch], costs, (SERVED, config), (dtype, fast))):
                with torch.inference_mode():
                    answers = case.run()
                if case.grid == "adaptive":
                    mixtures = even_mixtures(len(model.grids), batch, device)
                else:
                    answers, mixtures = [answers.prediction], [torch.full((batch,), index, device=device)]
                for answer, lengths in zip(answers, mixtures):
                    _check(case, answer, expected[lengths, torch.arange(batch, device=device)], limits[dtype])
                yield case


def _check(case: Case, logits: Tensor, expected: Tensor, limit: float) -> None:
    difference = float((logits - expected).abs().max() / expected.abs().max())
    if not difference <= limit:  # not a number is no agreement either
        how = "compiled" if case.compiled else "eager"
        raise RuntimeError(
            f"{case.config} at {case.grid}, {case.dtype}, {how}, batch {case.batch}: as served, its logits differ from the "
            f"plain float32 model's by {difference:.2g} of the largest (limit {limit:g})"
        )
