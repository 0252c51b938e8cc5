"""The batch that every task gets: pixels as uint8, targets, which samples they are, and which ones failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from revit.common.data.broken import Failure


@dataclass(frozen=True)
class Item:
    """Answer of a data set for one position: a sample, or no inputs and the reason among the failures."""

    inputs: Tensor | None
    """uint8 (V, C, T, H, W) or, for pictures, (V, C, H, W): the V views of one sample."""
    target: int | Tensor
    """Class number, -1 when unknown; or, where a sample may have several labels, float (classes,): 1 for its own, 0 else."""
    id: int
    """Position in the sample list of what was read; after a replacement another one than asked."""
    failures: tuple[Failure, ...] = ()
    """Samples that could not be read on the way."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """Further tensors of the sample, by name; see `Batch.extras`."""
    remarks: tuple[Failure, ...] = ()
    """Samples that were read, but not whole."""


@dataclass(frozen=True)
class Batch:
    """B samples with V adjacent views each. In evaluation B may be smaller than asked, even 0, where samples failed."""

    inputs: Tensor
    """uint8 (B*V, C, T, H, W), or (B*V, C, H, W) for pictures; (0,) when no sample could be read."""
    targets: Tensor
    """int64 (B,), -1 where unknown; where a sample may have several labels, or samples were mixed, float (B, classes)."""
    ids: Tensor
    """int64 (B,): positions in the sample list."""
    failures: list[Failure] = field(default_factory=list)
    """Samples that could not be read: replaced in training, missing from the batch in evaluation."""
    num_views: int = 1
    """V."""
    extras: dict[str, Tensor] = field(default_factory=dict)
    """Further tensors of the samples, by name, each (B, ...); empty when no sample could be read."""
    remarks: list[Failure] = field(default_factory=list)
    """Samples that were read, but not whole."""

    def __len__(self) -> int:
        """Return B, the number of samples (not of views)."""
        return self.targets.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Return the same batch with its tensors on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory; called by the loader's pinning thread."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            inputs=change(self.inputs),
            targets=change(self.targets),
            ids=change(self.ids),
            extras={name: change(tensor) for name, tensor in self.extras.items()},
        )


def collate(items: Sequence[Item], num_views: int = 1) -> Batch:
    """Stack the items that were read and gather all failures. ValueError if their shapes differ.

    `num_views` is V, needed for a batch in which nothing could be read.
    """
    read = [item for item in items if item.inputs is not None]
    tensors = _of_one_shape("inputs", [item.inputs for item in read if item.inputs is not None])
    extras = {
        name: torch.stack(_of_one_shape(name, [item.extras[name] for item in read]))
        for name in (read[0].extras if read else ())
    }
    return Batch(
        inputs=torch.cat(tensors) if tensors else torch.empty(0, dtype=torch.uint8),
        targets=_stack_targets([item.target for item in read]),
        ids=torch.tensor([item.id for item in read], dtype=torch.int64),
        failures=[failure for item in items for failure in item.failures],
        num_views=tensors[0].shape[0] if tensors else num_views,
        extras=extras,
        remarks=[remark for item in items for remark in item.remarks],
    )


def _stack_targets(targets: Sequence[int | Tensor]) -> Tensor:
    sets = [target for target in targets if isinstance(target, Tensor)]
    return torch.stack(sets) if sets else torch.tensor(targets, dtype=torch.int64)


def _of_one_shape(name: str, tensors: list[Tensor]) -> list[Tensor]:
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise ValueError(f"{name} of one batch have different shapes {sorted(shapes)}; crop them to one size")
    return tensors
