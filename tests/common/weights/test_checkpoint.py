from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from revit.common.system.errors import UserError
from revit.common.weights.checkpoint import FORMAT, Checkpoint, is_checkpoint, load_checkpoint, save_checkpoint


def make(**changes: object) -> Checkpoint:
    torch.manual_seed(0)
    facts = {
        "kind": "video",
        "config": {"model": {"grids": ["4x4"]}},
        "label_names": ["über den Fluß", "b"],
        "parts": {"model": nn.Linear(3, 2).state_dict(), "assigner": {"scale": torch.tensor(2.0)}},
        "extra": {"length_shares": {"4x4": 1.0}},
    }
    return Checkpoint(**{**facts, **changes})  # type: ignore[arg-type]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "model.safetensors"
    saved = make()
    save_checkpoint(path, saved)
    loaded = load_checkpoint(path)
    assert (loaded.kind, loaded.config, loaded.extra) == (saved.kind, saved.config, saved.extra)
    assert loaded.label_names == ("über den Fluß", "b")
    assert set(loaded.parts) == {"model", "assigner"}
    for part, state in saved.parts.items():
        assert all(torch.equal(loaded.parts[part][name], tensor) for name, tensor in state.items())
    assert is_checkpoint(path)
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_shared_and_strided_tensors_are_saved(tmp_path: Path) -> None:
    weight = torch.arange(6.0).view(2, 3)
    save_checkpoint(tmp_path / "a", make(parts={"model": {"a": weight, "b": weight, "c": weight.t()}}))
    assert torch.equal(load_checkpoint(tmp_path / "a").parts["model"]["c"], weight.t())


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, make())
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left"):
        save_checkpoint(path, make(label_names=["other", "names"]))
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_load_into_is_strict_and_explains(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, make())
    checkpoint = load_checkpoint(path)
    checkpoint.load_into("model", nn.Linear(3, 2), str(path))
    with pytest.raises(UserError, match=r"does not fit.*1 tensor of another size: weight \(2 x 3, there 2 x 4\)"):
        checkpoint.load_into("model", nn.Linear(4, 2), str(path))
    with pytest.raises(
        UserError, match=r"safetensors was trained so: .*1 tensor without a place there: bias"
    ) as caught:
        checkpoint.load_into("model", nn.Linear(3, 2, bias=False), str(path), "so")
    assert "state_dict" not in str(caught.value)
    with pytest.raises(UserError, match=r"2 tensors missing: 0\.weight, 0\.bias\)"):
        checkpoint.load_into("model", nn.Sequential(nn.Linear(3, 2)), str(path))
    with pytest.raises(UserError, match="holds no teacher; it has model, assigner"):
        checkpoint.load_into("teacher", nn.Linear(3, 2), str(path))


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "rounded.safetensors"
    weights = {name: tensor.to(torch.int8) for name, tensor in nn.Linear(3, 2).state_dict().items()}
    save_checkpoint(path, make(parts={"model": weights}))
    with pytest.raises(UserError, match=r"its model does not fit.* is torch.int8, not torch.float32"):
        load_checkpoint(path).load_into("model", nn.Linear(3, 2), str(path))
    half = {name: tensor.half() for name, tensor in nn.Linear(3, 2).state_dict().items()}
    make(parts={"model": half}).load_into("model", nn.Linear(3, 2), "half as precise")


def header_changed(path: Path, **changes: object) -> None:
    header = {"version": 1, "kind": "video", "config": {}, "label_names": [], "parts": ["model"], "extra": {}}
    save_file({"model.weight": torch.zeros(2)}, path, metadata={FORMAT: json.dumps({**header, **changes})})


def test_faulty_files_are_explained(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    save_checkpoint(good, make())
    whole = good.read_bytes()
    cases = {
        "empty": (b"", "damaged"),
        "cut": (whole[:-7], "damaged"),
        "cut header": (whole[:40], "damaged"),
        "text": (b"hello, I am a text file\n", "damaged"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert not is_checkpoint(path)
        with pytest.raises(UserError, match=message):
            load_checkpoint(path)

    path = tmp_path / "changed"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"another project.*start\.source"):
        load_checkpoint(path)
    for changes, message in (
        ({"version": 2}, "format 2, this program reads 1"),
        ({"config": None}, "lacks config"),
        ({"parts": ["assigner"]}, "does not know the part"),
        ({"parts": [["model"], "assigner"]}, "parts are not all text"),
        ({"label_names": ["a", 3]}, "label_names are not all text"),
        ({"label_names": ["a", "b", "a"]}, "label_names repeats 'a'"),
    ):
        header_changed(path, **changes)
        with pytest.raises(UserError, match=message):
            load_checkpoint(path)
    save_file({"weight": torch.zeros(2)}, path, metadata={FORMAT: "{"})
    with pytest.raises(UserError, match="no JSON"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="no such file"):
        load_checkpoint(tmp_path / "absent")
    with pytest.raises(UserError, match="a folder"):
        load_checkpoint(tmp_path)
