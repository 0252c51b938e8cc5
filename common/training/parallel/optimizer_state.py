"""What an optimiser keeps for each parameter, by the parameter's name: the form in which a run can go on elsewhere.

PyTorch numbers the parameters of an optimiser, DeepSpeed keeps flat pieces of many of them. Neither survives another
number of ranks or another ZeRO stage; names and whole tensors do. Learning rates and the like are not in it: they are
the configuration's and the schedule's.
"""

from __future__ import annotations

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
