"""Parity cases on disk: numbers of the published implementations on weights that anybody can make again.

A case is a folder with `case.json` (what to build, the names and shapes of its state dict, the input) and `expected.npz`
(what the published code answered). Weights and inputs are made from names and seeds alone.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Shapes = Mapping[str, Iterable[int]]

WITHOUT_EFFECT = {"drop_rate", "attn_drop_rate", "drop_path_rate"}
"""Facts of a model that change nothing in evaluation mode."""


@dataclass(frozen=True)
class Case:
    """One folder. Nothing may be read from its name."""

    folder: Path
    facts: Mapping[str, Any]
    expected: Mapping[str, NDArray[Any]]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.facts["config"]

    def input(self) -> Tensor:
        """The input, in the model's own layout."""
        generator = np.random.default_rng(self.facts["input_seed"])
        return torch.from_numpy(generator.standard_normal(self.facts["input_shape"], dtype=np.float32))


@dataclass
class Answer:
    """What this project makes of a case."""

    model: nn.Module | None
    arrays: Mapping[str, Tensor]
    """Everything the case's `expected.npz` may ask for, by name."""
    one_input_shape: tuple[int, ...] | None = None
    """The input of one clip or picture, for counting."""
    own_name: Callable[[str], str] = str
    """Published name of an entry of the state dict -> the name it has here."""
    relative: Callable[[str], float] | None = None
    """Where sizes differ too much for one absolute limit: name of an expected array -> what it may be off by, relative to
    the largest of its numbers."""


def case_folders(root: Path) -> list[Path]:
    """All folders of `root` that hold a case."""
    return sorted(path.parent for path in root.glob("*/case.json"))


def read_case(folder: Path) -> Case:
    facts = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    with np.load(folder / "expected.npz", allow_pickle=False) as arrays:
        return Case(folder, facts, dict(arrays))


def fill(name: str, shape: Iterable[int]) -> Tensor:
    """The float32 weight that belongs to a name and a shape."""
    shape = tuple(shape)
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if name.endswith("running_var"):
        values = 1 + np.abs(values) * np.float32(0.1)
    elif name.endswith(("running_mean", "bias")):
        values = values * np.float32(0.1)
    elif name.endswith("weight") and len(shape) > 1:
        values = values / np.float32(math.sqrt(math.prod(shape[1:])))
    elif name.endswith("weight"):
        values = 1 + np.float32(0.1) * values
    else:
        values = np.float32(0.5) * values
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def filled(shapes: Shapes) -> dict[str, Tensor]:
    """A whole state dict of such weights."""
    return {name: fill(name, shape) for name, shape in shapes.items()}


@torch.no_grad()
def fill_model(model: nn.Module) -> None:
    """Fills every float entry of a model by its own names; integer entries become 0."""
    for name, tensor in model.state_dict().items():
        tensor.copy_(fill(name, tensor.shape) if tensor.is_floating_point() else torch.zeros_like(tensor))


def write_case(folder: Path, facts: Mapping[str, Any], **expected: NDArray[Any]) -> Case:
    """Makes a case folder, which `read_case` reads, for numbers of a second implementation."""
    folder.mkdir(parents=True)
    (folder / "case.json").write_text(json.dumps(facts), encoding="utf-8")
    np.savez(folder / "expected.npz", **expected)  # type: ignore[arg-type]
    return read_case(folder)


def watch_first_block(model: nn.Module) -> dict[str, Tensor]:
    """A dictionary that the next forward pass fills with the tokens before and after block 0."""
    seen: dict[str, Tensor] = {}
    first = model.get_submodule("blocks.0")
    first.register_forward_pre_hook(lambda _, inputs: seen.update(tokens_before_block0=inputs[0]))
    first.register_forward_hook(lambda _, __, output: seen.update(tokens_after_block0=output))
    return seen


def pair(value: int | list[int]) -> tuple[int, int]:
    """A side, or height and width -> height and width."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
