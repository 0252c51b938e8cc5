"""TimeSformer weights as they are stored elsewhere: the authors' files and the Hugging Face port (without `transformers`).

Names and shapes tell the architecture behind them: enough to classify without a configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from torch import Tensor

from revit.common.system.errors import UserError
from revit.common.weights import source
from revit.common.weights.read import WeightFile
from revit.common.weights.source import Known, Source, heads_of, read_shapes, shape_of
from revit.video.data.options import ClipOptions, FrameOptions, PixelOptions
from revit.video.models.timesformer import AttentionKind
from revit.video.options import VideoModel

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

PUBLISHED_SHORT_SIDES = {224: (256, 320), 448: (448, 512)}
"""Crop size -> training's smallest and largest short side in the published recipes."""
PUBLISHED_RATES = {8: 32, 16: 16, 96: 4}
"""Frame count -> sampling rate in the published recipes."""


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
    """Read the Hugging Face port, its classification head in front or not."""
    if not any(
        name.startswith(("timesformer.embeddings.", "embeddings.position_embeddings")) for name in content.tensors
    ):
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
    keys = {
        "num_frames": ("DATA", "NUM_FRAMES"),
        "sampling_rate": ("DATA", "SAMPLING_RATE"),
        "img_size": ("DATA", "TRAIN_CROP_SIZE"),
        "mean": ("DATA", "MEAN"),
        "std": ("DATA", "STD"),
        "attention": ("TIMESFORMER", "ATTENTION_TYPE"),
    }
    sections = {name: group for name, group in cfg.items() if isinstance(group, Mapping)}
    found = {ours: sections.get(section, {}).get(key) for ours, (section, key) in keys.items()}
    return {key: value for key, value in found.items() if value is not None}, ()


@dataclass(frozen=True)
class Inferred:
    """A model to build and the clips it wants."""

    model: VideoModel
    clips: ClipOptions
    num_classes: int
    assumed: tuple[str, ...]
    """Facts that the weights do not tell, taken from the published recipes."""


def infer(source: Source) -> Inferred:
    """Read the model and its clips off a video model's weights.

    Shapes give width, depth, patch, frames, classes and the kind of attention; what lies beside the weights (`facts`)
    goes before any guess: heads are 64 wide and clips are those of the published recipes unless it says otherwise.

    Raises:
        UserError: an image model, or shapes that make no TimeSformer.
    """
    if source.kind != "video":
        raise UserError(
            f"{source.where}: image weights cannot classify clips; train from them with start.source, or give a "
            "TimeSformer"
        )
    tensors, known = source.tensors, Known(source.facts)
    shapes, kernel = read_shapes(source, "TimeSformer")
    (grid,), width = shapes["grids"], shapes["embed_dim"]
    size = grid.rows * kernel
    if "time_embed" in tensors:
        num_frames = shape_of(source, "TimeSformer", "time_embed", (1, None, width))[1]
    else:
        num_frames = known.get("num_frames", 8, "8 frames")
    heads = heads_of(source, known, width)
    rate = PUBLISHED_RATES.get(num_frames, 32)
    rate = known.get("sampling_rate", rate, f"{num_frames} frames at a sampling rate of {rate}")
    mean = known.get("mean", (0.45,) * 3, "pixel mean 0.45")
    std = known.get("std", (0.225,) * 3, "pixel std 0.225")
    low, high = PUBLISHED_SHORT_SIDES.get(size, (size * 8 // 7, size * 10 // 7))
    return Inferred(
        model=VideoModel(**{**shapes, "grids": (grid.name,)}, num_heads=heads, attention=_attention(tensors)),
        clips=ClipOptions(
            frames=FrameOptions(num_frames=num_frames, sampling_rate=rate),
            pixels=PixelOptions(crop_size=size, jitter_min=low, jitter_max=high, mean=mean, std=std),
        ),
        num_classes=shapes["num_classes"],
        assumed=tuple(known.assumed),
    )


def _attention(tensors: Mapping[str, Tensor]) -> AttentionKind:
    if any(".temporal_attn." in name for name in tensors):
        return "divided_space_time"
    return "joint_space_time" if "time_embed" in tensors else "space_only"
