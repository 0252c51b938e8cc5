"""A model as it is served: weights in the dtype that is fast here, packed once, one graph per token grid and batch size."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.methods.revit.adaptive import batch_at
from revit.common.models.base import GridModel, ModelOutput, Reduction
from revit.common.models.grid import TokenGrid
from revit.common.serving.options import INT8
from revit.common.serving.packed import folded, pack, to_int8
from revit.common.system.device import DTYPES, allow_graphs

HEADS = ("head", "head_dist")
"""Classifiers on one token or on the mean of all, as the models here call them."""
GRAPH_BATCH = 8
"""Largest batch of which CUDA replays a recorded graph: larger ones keep the GPU busy without."""


class Runtime(GridModel):
    """Answers like `model`, which it copies and leaves as it is, within the rounding of `dtype`.

    compiled: every token grid has a graph for every power of two up to its `limit`; smaller batches are padded with their
    last input, whose answers are cut off. Otherwise batches run as they come.

    Answers hold the logits to decide by, in float32, and what a reducer did; features and the logits of patches are left
    out. The last layers, which make the logits, compute in float32 whatever `dtype`: rounded to bfloat16, classes would tie.
    """

    def __init__(
        self,
        model: GridModel,
        device: torch.device,
        dtype: str = "float32",
        compiled: bool = False,
        max_batch: int = 32,
    ) -> None:
        super().__init__()
        self.grids = model.grids
        self.num_classes = model.num_classes
        self.embed_dim = model.embed_dim
        self.device = device
        # Around the bytes bfloat16, which is the faster one.
        self.dtype = torch.bfloat16 if dtype == INT8 else DTYPES[dtype]
        self.compiled = compiled
        self.max_batch = max_batch
        self._check = model.check_grid
        if dtype == INT8:
            served = to_int8(model, self.dtype)
        elif device.type == "cpu" and not compiled:  # a compiler packs by itself
            served = pack(model, self.dtype)
        else:
            served = folded(model, self.dtype)
        for name in HEADS:
            head = getattr(model, name, None)
            if isinstance(head, nn.ModuleDict):
                setattr(served, name, nn.ModuleDict({key: _Exact(one) for key, one in head.items()}))
            elif head is not None:
                setattr(served, name, _Exact(head))
        self.network = _Decided(served).to(device).eval()
        # In a tuple, or they would be modules in this one once more.
        self._graphs = _compiled(self.network, device) if compiled else ()

    def check_grid(self, grid: TokenGrid | None) -> TokenGrid:
        return self._check(grid)

    def limit(self, grid: TokenGrid) -> int:
        """Return how many inputs run together at a grid, see `revit.common.methods.revit.adaptive.batch_at`."""
        return batch_at(grid, self.grids[0], self.max_batch)

    @torch.inference_mode()
    def forward(self, inputs: Tensor, grid: TokenGrid | None = None) -> ModelOutput:
        """Classify normalised inputs (B, C, ...) -> float32 logits (B, K)."""
        grid = self.check_grid(grid)
        inputs = inputs.to(self.device, self.dtype)
        if not self.compiled:
            return self.network(inputs, grid)
        count = len(inputs)
        rows = padded_size(count, max(count, self.limit(grid)))
        if rows > count:
            inputs = torch.cat([inputs, inputs[-1:].expand(rows - count, *inputs.shape[1:])])
        replayed = self.device.type == "cuda" and rows <= GRAPH_BATCH
        output = self._graphs[replayed](inputs, grid)
        logits, reduction = output.logits[:count], output.reduction
        if reduction is not None:
            each = len(reduction.token_source_map) // rows  # several where frames are decided about one by one
            reduction = reduction.of_samples(slice(0, count * each))
        if replayed:  # the next replay writes where these answers lie
            logits = logits.clone()
            if reduction is not None:
                reduction = Reduction(*(tuple(tensor.clone() for tensor in part) for part in reduction))
        return ModelOutput(logits, reduction=reduction)

    def no_weight_decay(self) -> set[str]:
        """Return nothing: nothing is trained."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Do nothing: nothing is trained."""


class _Decided(nn.Module):
    """A model without what only training wants of its output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, grid: TokenGrid) -> ModelOutput:
        output = self.model(inputs, grid)
        return ModelOutput(output.prediction.float(), reduction=output.reduction)


class _Exact(nn.Module):
    """A classifier that computes in float32 on features of any dtype."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = copy.deepcopy(head).float()

    def forward(self, features: Tensor) -> Tensor:
        """Map (..., D) to (..., K)."""
        return self.head(features.float())


def padded_size(count: int, limit: int) -> int:
    """Return the rows of the graph that `count` inputs run in: the next power of two, at most `limit`. ValueError for more
    inputs than that."""
    if not 0 < count <= limit:
        raise ValueError(f"{count} inputs do not fit into a batch of 1 to {limit}")
    return min(1 << (count - 1).bit_length(), limit)


def _compiled(network: nn.Module, device: torch.device) -> tuple[Any, ...]:
    """Compile for large batches, and on CUDA also as recorded graphs for small ones."""
    allow_graphs(network, 1024)
    if device.type == "cuda":
        graphs = torch.compile(network, dynamic=False, mode="reduce-overhead")
        return torch.compile(network, dynamic=False), graphs
    # Frozen weights are packed for the processor's matrix products when the graph is made.
    return (torch.compile(network, dynamic=False, options={"freezing": True}),)
