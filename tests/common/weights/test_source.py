"""Where weights come from, and what is said when that place is no good."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from revit.common.checkpoint import Checkpoint, save_checkpoint
from revit.common.errors import UserError
from revit.common.weights.source import read_source


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
    start = time.monotonic()
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9 cannot be reached, and its cache .* has no copy"):
        read_source(where)
    assert time.monotonic() - start < 5
    assert "Retrying" not in caplog.text
    assert not constants.HF_HUB_OFFLINE
