from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from revit.common.system.errors import UserError
from revit.video.models.timesformer import TimeSformer
from revit.video.weights.source import infer, read_source
from revit.video.weights.start import start_from

NAMES = ("abseiling", "air drumming", "answering questions")
CONFIG = {
    "architectures": ["TimesformerForVideoClassification"],
    "attention_type": "divided_space_time",
    "hidden_size": 32,
    "id2label": {str(number): name for number, name in enumerate(NAMES)},
    "image_size": 32,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-06,
    "model_type": "timesformer",
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_frames": 4,
    "num_hidden_layers": 2,
    "patch_size": 8,
    "qkv_bias": True,
}
# Ours -> the port's, written down a second time.
PORT = [
    ("cls_token", "timesformer.embeddings.cls_token"),
    ("pos_embed", "timesformer.embeddings.position_embeddings"),
    ("time_embed", "timesformer.embeddings.time_embeddings"),
    ("patch_embed.proj", "timesformer.embeddings.patch_embeddings.projection"),
    ("temporal_norm1", "temporal_layernorm"),
    ("temporal_attn.qkv", "temporal_attention.attention.qkv"),
    ("temporal_attn.proj", "temporal_attention.output.dense"),
    ("temporal_fc", "temporal_dense"),
    (".attn.qkv", ".attention.attention.qkv"),
    (".attn.proj", ".attention.output.dense"),
    (".norm1", ".layernorm_before"),
    (".norm2", ".layernorm_after"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
    ("blocks.", "timesformer.encoder.layer."),
]


def ported(name: str) -> str:
    if name.startswith("norm."):
        return f"timesformer.layer{name}"
    if name.startswith("head."):
        return name.replace("head", "classifier")
    for ours, theirs in PORT:
        name = name.replace(ours, theirs)
    return name


def make() -> TimeSformer:
    model = TimeSformer(32, (4,), 4, 3, 32, 2, 4, mlp_ratio=2.0).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.2 * torch.randn_like(tensor))
    return model


def write_folder(folder: Path, state: dict[str, Tensor], how: str = "whole", **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.45, 0.45, 0.45], "image_std": [0.225, 0.225, 0.225]})
    )
    if how == "whole":
        save_file(state, folder / "model.safetensors")
    elif how == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        names = list(state)
        shards = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
        for shard, inside in shards.items():
            save_file({name: state[name] for name in inside}, folder / shard)
        index = {"weight_map": {name: shard for shard, inside in shards.items() for name in inside}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def ported_state(model: TimeSformer) -> dict[str, Tensor]:
    return {ported(name): tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("how", ["whole", "bin", "shards"])
def test_a_folder_becomes_the_same_model(tmp_path: Path, how: str) -> None:
    model = make()
    folder = write_folder(tmp_path / "folder", ported_state(model), how)
    found = infer(read_source(str(folder)))
    assert found.model.num_heads == 4
    assert found.model.mlp_ratio == 2.0
    assert found.model.grids == ("4x4",)
    assert (found.clips.frames.num_frames, found.clips.pixels.crop_size) == (4, 32)
    again = TimeSformer(32, (4,), 4, 3, 32, 2, 4, mlp_ratio=2.0).eval()
    report = start_from(again, str(folder))
    assert report.label_names == NAMES
    assert len(report.loaded) == len(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))


def test_the_port_answers_the_same(tmp_path: Path) -> None:
    """Against transformers itself, folder and logits both its own."""
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    for attention in ("divided_space_time", "joint_space_time"):
        facts = {key: CONFIG[key] for key in CONFIG if key not in ("architectures", "model_type")}
        config = TimesformerConfig(**{**facts, "attention_type": attention})
        theirs = TimesformerForVideoClassification(config).eval()
        with torch.no_grad():
            for tensor in theirs.parameters():
                tensor.copy_(0.3 * torch.randn_like(tensor))
        theirs.save_pretrained(tmp_path / attention)
        source = read_source(str(tmp_path / attention))
        assert source.label_names == NAMES
        ours = TimeSformer(32, (4,), 4, 3, 32, 2, 4, attention=attention, mlp_ratio=2.0).eval()
        start_from(ours, source)
        clips = torch.randn(2, 3, 4, 32, 32)
        with torch.no_grad():
            expected = theirs(clips.transpose(1, 2)).logits
            assert torch.allclose(ours(clips).logits, expected, atol=5e-5)


def test_names_that_are_no_names(tmp_path: Path) -> None:
    state = ported_state(make())
    fillers = {str(number): f"LABEL_{number}" for number in range(3)}
    assert read_source(str(write_folder(tmp_path / "a", state, id2label=fillers))).label_names == ()
    gap = {"0": "a", "2": "b"}
    assert read_source(str(write_folder(tmp_path / "b", state, id2label=gap))).label_names == ()


def test_heads_are_checked(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", ported_state(make()), num_attention_heads=2)
    with pytest.raises(UserError, match="num_heads 2, the model has 4"):
        start_from(make(), str(folder))


def test_incomplete_folders_are_explained(tmp_path: Path) -> None:
    state = ported_state(make())
    folder = write_folder(tmp_path / "shards", state, "shards")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"00002-of-00002\.safetensors: no such file"):
        read_source(str(folder))
    index = {"weight_map": {"timesformer.layernorm.bias": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="outside the folder"):
        read_source(str(folder))
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match="no weights in this folder"):
        read_source(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_source(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json beside its weights"):
        read_source(str(folder))


def test_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    model = make()
    folder = write_folder(tmp_path / "cached", ported_state(model))

    def cached(name: str, **_: Any) -> str:
        if name != "someone/timesformer":
            raise OSError("404 Client Error")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert read_source("hf-hub:someone/timesformer").label_names == NAMES
    with pytest.raises(UserError, match=r"hf-hub:someone/else: cannot be fetched \(404"):
        read_source("hf-hub:someone/else")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        read_source("hf-hub:someone/timesformer")
