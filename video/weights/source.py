"""TimeSformer weights as they are stored elsewhere: the authors' files and the Hugging Face port (without `transformers`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from torch import Tensor

from revit.common.weights import source
from revit.common.weights.read import WeightFile
from revit.common.weights.source import Source

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
    """Tell whether the names are those of the port, its classification head in front or not."""
    return any(name.startswith(("timesformer.embeddings.", "embeddings.position_embeddings")) for name in tensors)


def to_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of the port their published names. Unknown names stay as they are."""
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


def port_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of config.json and preprocessor_config.json (`preprocessor` in `config`) by this project's names."""
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


def port_label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names; none where there are none or only the port's fillers (LABEL_0, LABEL_1, ...)."""
    table = config.get("id2label")
    try:
        by_number = {int(number): str(name) for number, name in table.items()} if isinstance(table, Mapping) else {}
    except ValueError:
        return ()
    names = tuple(by_number[number] for number in sorted(by_number))
    fillers = tuple(f"LABEL_{number}" for number in range(len(names)))
    return names if sorted(by_number) == list(range(len(names))) and names != fillers else ()


def ported(where: str, content: WeightFile, config: Mapping[str, Any]) -> Source | None:
    """Read the Hugging Face port."""
    if not is_timesformer(content.tensors):
        return None
    return Source(
        where=f"{where} (Hugging Face TimeSformer)",
        kind="video",
        tensors=to_published(content.tensors),
        label_names=port_label_names(config),
        facts=port_facts(config),
    )


def published(where: str, content: WeightFile, config: Mapping[str, Any]) -> Source | None:
    """Read the authors' training files; a space-only TimeSformer, with names of an image model, is known by its wrapper."""
    names = content.tensors.keys()
    is_transformer = {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= names
    if not is_transformer or not ("time_embed" in names or content.wrapper == "model_state"):
        return None
    facts, notes = facts_from_cfg(content.cfg)
    return Source(f"{where} (published TimeSformer)", "video", content.tensors, facts=facts, notes=notes)


DIALECTS = (ported, published)


def read_source(where: str) -> Source:
    """Read weights as `revit.common.weights.source.read_source` does, TimeSformers too."""
    return source.read_source(where, DIALECTS)


def facts_from_cfg(text: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return facts from the configuration inside a published training file, and notes on it."""
    if text is None:
        return {}, ()
    try:
        cfg = yaml.safe_load(text)
    except yaml.YAMLError:
        cfg = None
    if not isinstance(cfg, Mapping):
        return {}, ("the configuration stored in the file is no YAML and was not used",)

    def entry(section: str, key: str) -> Any:
        group = cfg.get(section)
        return group.get(key) if isinstance(group, Mapping) else None

    found = {
        "num_frames": entry("DATA", "NUM_FRAMES"),
        "sampling_rate": entry("DATA", "SAMPLING_RATE"),
        "img_size": entry("DATA", "TRAIN_CROP_SIZE"),
        "mean": entry("DATA", "MEAN"),
        "std": entry("DATA", "STD"),
        "attention": entry("TIMESFORMER", "ATTENTION_TYPE"),
    }
    return {key: value for key, value in found.items() if value is not None}, ()
