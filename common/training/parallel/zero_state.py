"""DeepSpeed's flat, split optimiser state <-> whole tensors by parameter name.

ZeRO 1 to 3 lay the parameters of a group end to end, cut the row into one piece per rank and let the optimiser work on
that piece. DeepSpeed's own checkpoints keep the pieces and so bind a run to its stage; its universal ones lose SGD's
momentum. Here every rank puts its fragments into whole tensors and they are added up.

DeepSpeed's public calls (`safe_get_full_optimizer_state` and its counterpart) do not reach the counts of updates, want a
state to be there before one can be loaded, and cannot load the last, filled-up piece of ZeRO 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from revit.common.training.parallel.optimizer_state import NamedState, load_optimizer_state, optimizer_state


class _Fragment(NamedTuple):
    """The part of a parameter that this rank's optimiser updates."""

    flat: Tensor
    """Parameter of the optimiser, of which this is a part."""
    start: int
    """Position in `flat`."""
    offset: int
    """Position in the flattened parameter."""
    length: int


def zero_optimizer_state(engine: Any, stage: int, network: nn.Module) -> NamedState:
    """Return what DeepSpeed's optimiser keeps, by name, whole, on every rank. Called by all."""
    if stage == 0:
        return optimizer_state(engine.optimizer, network)
    inner = engine.optimizer.optimizer
    keys = _keys(inner)
    state: NamedState = {}
    for name, parameter, fragment in _fragments(engine, stage, network):
        if not keys:
            break  # nothing was updated yet
        kept = {} if fragment is None else inner.state[fragment.flat]
        state[name] = {}
        for key, is_tensor in keys.items():
            whole = torch.zeros(_numel(parameter) if is_tensor else 1, device=engine.device)
            if is_tensor and fragment is not None:
                piece = kept[key].narrow(0, fragment.start, fragment.length)
                whole.narrow(0, fragment.offset, fragment.length).copy_(piece)
            elif fragment is not None:
                whole.fill_(float(kept[key]))
            # Of numbers every rank that has any has the same.
            dist.all_reduce(whole, op=dist.ReduceOp.SUM if is_tensor else dist.ReduceOp.MAX)
            state[name][key] = whole.view(_shape(parameter) if is_tensor else ()).cpu()
    return state


def load_zero_optimizer_state(engine: Any, stage: int, network: nn.Module, state: NamedState) -> None:
    """Give this rank's pieces back to DeepSpeed's optimiser."""
    if stage == 0:
        load_optimizer_state(engine.optimizer, network, state)
        return
    inner = engine.optimizer.optimizer
    inner.state.clear()
    for name, _, fragment in _fragments(engine, stage, network):
        if fragment is None or name not in state:
            continue  # of another rank, or never updated: the same as zeros
        kept = inner.state[fragment.flat]
        for key, whole in state[name].items():
            if whole.ndim == 0:
                whole = whole.to(fragment.flat.device, copy=True)  # a fused optimiser counts there
                kept[key] = torch.maximum(kept[key], whole) if key in kept else whole
                continue
            if key not in kept:
                kept[key] = torch.zeros_like(fragment.flat)
            piece = whole.flatten().narrow(0, fragment.offset, fragment.length)
            kept[key].narrow(0, fragment.start, fragment.length).copy_(piece)


def _keys(inner: torch.optim.Optimizer) -> dict[str, bool]:
    """Return the keys of the optimiser on any rank -> True where the value has its parameter's shape, False for a number."""
    own: dict[str, bool] = {}
    for kept in inner.state.values():
        own |= {key: value.ndim > 0 for key, value in kept.items() if isinstance(value, Tensor)}
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, own)
    return {key: is_tensor for one in everywhere for key, is_tensor in one.items()}


def _fragments(engine: Any, stage: int, network: nn.Module) -> Iterator[tuple[str, nn.Parameter, _Fragment | None]]:
    """Yield every trained parameter, in the same order on all ranks, with this rank's part of it, if any."""
    optimizer = engine.optimizer
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            find = _fragment_of_split_weights if stage == 3 else _fragment_of_whole_weights
            yield name, parameter, find(optimizer, parameter)


def _fragment_of_whole_weights(optimizer: Any, parameter: Any) -> _Fragment | None:
    """Find this rank's part under ZeRO 1 and 2."""
    where = parameter._hp_mapping
    if where is None:
        return None
    flat = optimizer.single_partition_of_fp32_groups[where.param_group_index]
    inside, outside = where.hp_fragment_address, where.lp_fragment_address
    return _Fragment(flat, inside.start, outside.start, inside.numel)


def _fragment_of_split_weights(optimizer: Any, parameter: Any) -> _Fragment | None:
    """Find this rank's part under ZeRO 3: equal pieces of every parameter, the last ones filled up with zeros."""
    group, start, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
    offset = length * dist.get_rank()
    length = min(length, parameter.ds_numel - offset)
    if length <= 0:
        return None
    return _Fragment(optimizer.fp32_partitioned_groups_flat[group], start, offset, length)


def _numel(parameter: Any) -> int:
    return getattr(parameter, "ds_numel", parameter.numel())


def _shape(parameter: Any) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)
