"""What methods add to a model, in weights made elsewhere: other names, and parts that only one of the two sides has."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from revit.common.methods.base import Method
from revit.common.methods.registry import known_methods
from revit.common.models.load_report import LoadReport

REDUCER = "reducer."
"""How the names of a reducer's parameters begin in a model."""


def our_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with what the authors of a method call otherwise under the names that it has here."""
    pairs = [pair for method in known_methods().values() for pair in method.published_names.items()]
    renamed = {}
    for name, tensor in tensors.items():
        ours = (own + name.removeprefix(theirs) for theirs, own in pairs if name.startswith(theirs))
        renamed[next(ours, name)] = tensor
    return renamed


def methods_found(names: Collection[str]) -> tuple[Method, ...]:
    """The methods with which weights of these names were trained, as far as names tell."""
    found = (method.found_in(names) for method in known_methods().values())
    return tuple(method for method in found if method is not None)


def take_reducer(tensors: dict[str, Tensor], model: nn.Module, report: LoadReport) -> set[str]:
    """Lets weights without a reducer start a model with one, and the other way round; returns the names that `report` now
    has. `tensors` are changed in place.

    A reducer that the source has nothing of keeps its own start; one that the model does not have is left out.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(REDUCER)}
    theirs = [name for name in tensors if name.startswith(REDUCER)]
    if own and not theirs:
        tensors.update({name: tensor.detach().clone() for name, tensor in own.items()})
        report.remade.append(f"reducer: the source has none; {len(own)} tensors keep their own random start")
        return set(own)
    if theirs and not own:
        report.leave_out("parts that decide about tokens, where this model keeps all of them", theirs)
        for name in theirs:
            del tensors[name]
    return set()
