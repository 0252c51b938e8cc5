"""Hugging Face TimeSformer folders: names, configuration, class names. `transformers` is not needed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from revit.common.errors import UserError
from revit.common.weights.read import WeightFile, read_weights, strip_prefixes

FILES = ("model.safetensors", "pytorch_model.bin")

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


def timm_label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names that a folder in timm's layout carries; usually none."""
    names = config.get("label_names")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def read_folder(folder: Path) -> tuple[WeightFile, dict[str, Any]]:
    """The weights (whole or in shards; safetensors first) and config.json of a folder, preprocessor included.

    Raises:
        UserError: no config.json or no weights in it, a shard is missing, or a file is damaged.
    """
    config = _json(folder / "config.json", "a Hugging Face folder has config.json beside its weights")
    if (folder / "preprocessor_config.json").exists():
        config["preprocessor"] = _json(folder / "preprocessor_config.json", "")
    for name in FILES:
        if (folder / name).exists():
            return read_weights(folder / name), config
        index = folder / f"{name}.index.json"
        if index.exists():
            return _read_shards(folder, index), config
    raise UserError(
        f"{folder}: no weights in this folder; wanted {' or '.join(FILES)}, or {FILES[0]}.index.json with its shards"
    )


def _read_shards(folder: Path, index: Path) -> WeightFile:
    where = _json(index, "").get("weight_map")
    if not isinstance(where, Mapping) or not where:
        raise UserError(f"{index}: has no weight_map; download the folder again")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(map(str, where.values()))):
        if Path(shard).name != shard:
            raise UserError(f"{index}: names the shard {shard!r}, which is outside the folder")
        tensors.update(read_weights(folder / shard).tensors)
    lost = [name for name in strip_prefixes(dict.fromkeys(where)) if name not in tensors]  # type: ignore[arg-type]
    if lost:
        raise UserError(
            f"{index}: {len(lost)} tensors are in no shard, {lost[0]} for one; download the folder again"
        )
    return WeightFile(tensors)


def download(where: str) -> Path:
    """`hf-hub:NAME` -> the local folder, from the hub's cache or from the hub.

    Raises:
        UserError: huggingface_hub is not installed, or the hub does not give it.
    """
    name = where.removeprefix("hf-hub:")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(f"{where}: this needs huggingface_hub: pip install huggingface_hub") from error
    patterns = ["*.json", "*.safetensors", "pytorch_model*.bin"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises its own, requests' and OS errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{where}: cannot be fetched ({reason}); check the name and the network") from error


def _json(path: Path, hint: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{f'; {hint}' if hint else ''}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content
