"""Where weights come from, and what is said when that place is no good."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from timm.data.constants import IMAGENET_DEFAULT_MEAN as IMAGENET_MEAN
from timm.data.constants import IMAGENET_DEFAULT_STD as IMAGENET_STD

from revit.common.system.errors import UserError
from revit.common.weights.checkpoint import Checkpoint, save_checkpoint
from revit.common.weights.source import Source, read_source
from revit.common.weights.start import pixel_notes
from revit.image.data.options import PicturePixelOptions


@pytest.mark.parametrize(
    ("config", "extra", "message"),
    [
        ({"model": ["deit"]}, {}, r"the model of its header is \['deit'\]"),
        ({"data": {"pixels": 3}}, {}, "the pixels of its header is 3"),
        ({"model": {"grids": ["wide"]}}, {}, "the token grids of its configuration"),
        ({"model": {"grids": 14}}, {}, "the token grids of its configuration"),
        ({}, {"architecture": "large"}, "the architecture of its header is 'large'"),
    ],
)
def test_a_checkpoint_with_a_malformed_header_is_refused(
    tmp_path: Path, config: dict[str, Any], extra: dict[str, Any], message: str
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, Checkpoint("image", config, ["a"], {"model": {"head": torch.zeros(1)}}, extra))
    with pytest.raises(UserError, match=message) as caught:
        read_source(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("where", ["timm:deit_tiny_patch16_224", "hf-hub:someone/timesformer"])
def test_a_hub_out_of_reach_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.getproxies", dict)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9 cannot be reached, and its cache .* has no copy"):
        read_source(where)
    assert sum(waits) == 0
    assert "Retrying" not in caplog.text
    assert not constants.HF_HUB_OFFLINE


def test_the_folder_of_a_run_is_its_result(tmp_path: Path) -> None:
    head = {"head": torch.arange(3.0)}
    save_checkpoint(tmp_path / "checkpoint.safetensors", Checkpoint("image", {}, ["a"], {"model": head}))
    source = read_source(str(tmp_path))
    assert torch.equal(source.tensors["head"], head["head"])
    assert (source.kind, source.label_names) == ("image", ("a",))


def test_a_run_without_a_result_and_a_folder_of_nothing_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file.*the folder of a run has checkpoint\.safetensors"):
        read_source(str(tmp_path))
    (tmp_path / "stages.json").write_text("{}")
    with pytest.raises(UserError, match=r"a run without a result so far.*model\.safetensors"):
        read_source(str(tmp_path))


def test_pixels_are_noted_only_where_they_differ() -> None:
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    source = Source("a file", "image", {}, facts={"mean": list(mean), "std": [0.5, 0.5, 0.5]})
    assert pixel_notes(source, PicturePixelOptions(mean=mean, std=(0.5, 0.5, 0.5))) == []
    assert pixel_notes(source, PicturePixelOptions(mean=mean, std=std)) == [
        "its pixels had std 0.5, 0.5, 0.5, here it is 0.229, 0.224, 0.225; set data.pixels.std to the same"
    ]
    assert len(pixel_notes(source, None)) == 2
    assert pixel_notes(Source("a file", "image", {}), PicturePixelOptions()) == []
