from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from revit.common.system.errors import UserError
from revit.common.weights.read import read_weights

STATE = {"norm.weight": torch.arange(4.0), "head.bias": torch.ones(2)}


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in STATE.items()}


@pytest.mark.parametrize(
    ("content", "wrapper"),
    [
        (STATE, None),
        ({"model": STATE, "args": argparse.Namespace(lr=0.1)}, "model"),
        ({"state_dict": prefixed("module."), "epoch": 3}, "state_dict"),
        ({"epoch": 14, "model_state": prefixed("model."), "optimizer_state": {}, "cfg": "A: 1"}, "model_state"),
        ({"module": prefixed("module.model.")}, "module"),
    ],
)
def test_wrappers_and_prefixes_come_off(tmp_path: Path, content: dict[str, Any], wrapper: str | None) -> None:
    torch.save(content, tmp_path / "weights.pyth")
    read = read_weights(tmp_path / "weights.pyth")
    assert read.wrapper == wrapper
    assert read.cfg == content.get("cfg")
    assert read.tensors.keys() == STATE.keys()
    assert torch.equal(read.tensors["norm.weight"], STATE["norm.weight"])


def test_safetensors_and_the_old_format(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.safetensors")
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("weights.safetensors", "old.pth"):
        assert read_weights(tmp_path / name).tensors.keys() == STATE.keys()


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("new", [True, False])
def test_no_code_runs(tmp_path: Path, new: bool) -> None:
    path = tmp_path / "trap.pth"
    torch.save({"model": STATE, "extra": Trap(str(tmp_path / "sprung"))}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(UserError, match="would run code"):
        read_weights(path)
    assert not (tmp_path / "sprung").exists()


def test_faulty_files_are_explained(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "whole.pth")
    save_file(STATE, tmp_path / "whole.safetensors")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("these are not weights")
    for kind in ("pth", "safetensors"):
        whole = (tmp_path / f"whole.{kind}").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(whole[: len(whole) // 2])
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    for name, message in (
        ("absent.pth", "no such file"),
        ("empty.pth", "an empty file"),
        ("text.pth", "not a weight file"),
        ("cut.pth", "damaged"),
        ("cut.safetensors", "damaged"),
        ("list.pth", "holds a list"),
        ("none.pth", "no weights in this file; it holds epoch"),
        (".", "a folder"),
    ):
        with pytest.raises(UserError, match=message):
            read_weights(tmp_path / name)
