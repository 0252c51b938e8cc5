"""What an optimiser keeps for each parameter, by the parameter's name: the form in which a run can go on elsewhere.

PyTorch numbers the parameters of an optimiser. ZeRO 1 to 3 lay those of a group end to end, cut the row into one piece per
rank and let the optimiser work on that piece. Neither survives another number of ranks or another ZeRO stage; names and
whole tensors do, so every rank puts its fragments into whole tensors and they are added up. Learning rates and the like are
not in it: they are the configuration's and the schedule's.

DeepSpeed's own checkpoints bind a run to its stage; its universal ones lose SGD's momentum. Its public calls
(`safe_get_full_optimizer_state` and its counterpart) do not reach the counts of updates, want a state to be there before one
can be loaded, and cannot load the last, filled-up piece of ZeRO 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

NamedState = dict[str, dict[str, Tensor]]
"""Parameter name -> key of the optimiser -> a tensor of the parameter's shape, or a number (`step`) as a tensor of no
dimensions. A parameter that was never updated has no entry."""


def optimizer_state(optimizer: Optimizer, network: nn.Module) -> NamedState:
    """Return the state of a plain PyTorch optimiser over parameters of `network`; the tensors are its own, not copies."""
    return {
        name: {key: value for key, value in optimizer.state[parameter].items() if isinstance(value, Tensor)}
        for name, parameter in network.named_parameters()
        if optimizer.state.get(parameter)
    }


def load_optimizer_state(optimizer: Optimizer, network: nn.Module, state: NamedState) -> None:
    """Give a plain PyTorch optimiser what `optimizer_state` found. Raises ValueError for names it does not know."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    own = optimizer.state_dict()
    by_number = {}
    # PyTorch's own loading brings each tensor to the device of its parameter; one that is there already it would share.
    for group, numbered in zip(optimizer.param_groups, own["param_groups"]):
        for parameter, number in zip(group["params"], numbered["params"]):
            if names.get(parameter) in state:
                by_number[number] = {key: value.clone() for key, value in state[names[parameter]].items()}
    if len(by_number) != len(state):
        unknown = sorted(set(state) - {names.get(p) for group in optimizer.param_groups for p in group["params"]})
        raise ValueError(f"the state is of other parameters than the optimiser's: {', '.join(map(str, unknown))}")
    optimizer.load_state_dict({"state": by_number, "param_groups": own["param_groups"]})


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
    for name, shape, fragment in _fragments(engine, stage, network) if keys else ():  # no keys: nothing was updated yet
        kept = {} if fragment is None else inner.state[fragment.flat]
        state[name] = {}
        for key, is_tensor in keys.items():
            whole = torch.zeros(shape.numel() if is_tensor else 1, device=engine.device)
            if is_tensor and fragment is not None:
                piece = kept[key].narrow(0, fragment.start, fragment.length)
                whole.narrow(0, fragment.offset, fragment.length).copy_(piece)
            elif fragment is not None:
                whole.fill_(float(kept[key]))
            # Of numbers every rank that has any has the same.
            dist.all_reduce(whole, op=dist.ReduceOp.SUM if is_tensor else dist.ReduceOp.MAX)
            state[name][key] = whole.view(shape if is_tensor else ()).cpu()
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


def _fragments(engine: Any, stage: int, network: nn.Module) -> Iterator[tuple[str, torch.Size, _Fragment | None]]:
    """Yield name and shape of every trained parameter, in the same order on all ranks, with this rank's part, if any."""
    find = _fragment_of_split_weights if stage == 3 else _fragment_of_whole_weights
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            yield name, getattr(parameter, "ds_shape", parameter.shape), find(engine.optimizer, parameter)


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
