"""The Hugging Face port of TimeSformer: its names and its configuration. `transformers` is not needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_OUTSIDE = {
    "timesformer.embeddings.cls_token": "cls_token",
    "timesformer.embeddings.position_embeddings": "pos_embed",
    "timesformer.embeddings.time_embeddings": "time_embed",
    "timesformer.embeddings.patch_embeddings.projection": "patch_embed.proj",
    "timesformer.layernorm": "norm",
    "classifier": "head",
}
_IN_BLOCK = {
    "layernorm_before": "norm1",
    "attention.attention.qkv": "attn.qkv",
    "attention.output.dense": "attn.proj",
    "temporal_layernorm": "temporal_norm1",
    "temporal_attention.attention.qkv": "temporal_attn.qkv",
    "temporal_attention.output.dense": "temporal_attn.proj",
    "temporal_dense": "temporal_fc",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_BLOCK = re.compile(r"timesformer\.encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")


def is_timesformer(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of the port, its classification head in front or not."""
    return any(
        name.startswith(("timesformer.embeddings.", "embeddings.position_embeddings")) for name in tensors
    )


def to_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The port's names -> the published ones; the tensors are the same. Unknown names stay as they are."""
    if any(name.startswith("embeddings.") for name in tensors):  # the bare TimesformerModel
        tensors = {f"timesformer.{name}": tensor for name, tensor in tensors.items()}
    return {_published_name(name): tensor for name, tensor in tensors.items()}


def _published_name(name: str) -> str:
    if match := _BLOCK.fullmatch(name):
        number, part, kind = match.groups()
        return f"blocks.{number}.{_IN_BLOCK.get(part, part)}.{kind}"
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    part, _, kind = name.rpartition(".")
    return f"{_OUTSIDE[part]}.{kind}" if part in _OUTSIDE else name


def facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json and preprocessor_config.json (`preprocessor` in `config`) say, in this project's words."""
    names = {
        "num_heads": "num_attention_heads",
        "num_frames": "num_frames",
        "img_size": "image_size",
        "attention": "attention_type",
        "layer_norm_eps": "layer_norm_eps",
    }
    found = {ours: config[theirs] for ours, theirs in names.items() if config.get(theirs) is not None}
    preprocessor = config.get("preprocessor", {})
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if isinstance(preprocessor.get(theirs), list):
            found[ours] = preprocessor[theirs]
    return found


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names in order; empty where there are none or only the port's fillers (LABEL_0, LABEL_1, ...)."""
    table = config.get("id2label")
    if not isinstance(table, Mapping) or not table:
        return ()
    try:
        by_number = {int(number): str(name) for number, name in table.items()}
    except ValueError:
        return ()
    if sorted(by_number) != list(range(len(by_number))):
        return ()
    names = tuple(by_number[number] for number in range(len(by_number)))
    return () if all(name == f"LABEL_{number}" for number, name in enumerate(names)) else names
