"""Weights of another project, brought to this project's names, with whatever is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import Tensor

from revit.common.checkpoint import Checkpoint, is_checkpoint, load_checkpoint
from revit.common.errors import UserError
from revit.common.tokens.grid import TokenGrid
from revit.common.weights.read import WeightFile, read_weights
from revit.video.weights import hugging_face

Kind = Literal["video", "image"]


@dataclass(frozen=True)
class Source:
    """Weights under the published TimeSformer names, or those of a timm ViT, which are the same for one frame."""

    where: str
    """What the user gave, and what it turned out to be."""
    kind: Kind
    tensors: dict[str, Tensor]
    label_names: tuple[str, ...] = ()
    grid: TokenGrid | None = None
    """The grid of the position table, where the source says it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was written beside the weights: `num_heads`, `num_frames`, `img_size`, `attention`, `sampling_rate`, `mean`,
    `std`, `layer_norm_eps`, `num_classes`; each only where known."""
    notes: tuple[str, ...] = ()


def read_source(where: str) -> Source:
    """Reads our checkpoint, another weight file, a Hugging Face folder, `hf-hub:NAME` or `timm:NAME`, and finds out what it is.

    Raises:
        UserError: nothing there, unreadable, or no vision transformer this project knows.
    """
    if where.startswith("timm:"):
        return _from_timm(where)
    path = hugging_face.download(where) if where.startswith("hf-hub:") else Path(where).expanduser()
    if path.is_file() and is_checkpoint(path):
        return _from_checkpoint(where, load_checkpoint(path))
    if path.is_dir():
        content, config = hugging_face.read_folder(path)
    else:
        content, config = read_weights(path), {}
    if hugging_face.is_timesformer(content.tensors):
        return Source(
            where=f"{where} (Hugging Face TimeSformer)",
            kind="video",
            tensors=hugging_face.to_published(content.tensors),
            label_names=hugging_face.label_names(config),
            facts=hugging_face.facts(config),
        )
    return _by_names(where, content, hugging_face.timm_label_names(config))


def _from_checkpoint(where: str, checkpoint: Checkpoint) -> Source:
    model = checkpoint.config.get("model", {})
    grids = model.get("grids") or [None]
    return Source(
        where=f"{where} (our checkpoint, {checkpoint.kind})",
        kind="video" if checkpoint.kind == "video" else "image",
        tensors=dict(checkpoint.parts.get("model", {})),
        label_names=tuple(checkpoint.label_names),
        grid=TokenGrid.parse(grids[0]) if grids[0] is not None else None,
        facts={key: model[key] for key in ("num_heads", "attention") if key in model},
    )


def _by_names(where: str, content: WeightFile, label_names: tuple[str, ...]) -> Source:
    names = content.tensors.keys()
    if not {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= names:
        shown = ", ".join(list(names)[:6])
        raise UserError(
            f"{where}: neither a TimeSformer nor a vision transformer with a class token; its tensors are {shown}, ...; "
            "known are published TimeSformer files, Hugging Face TimeSformer folders, and ViT or DeiT files with timm's names"
        )
    # A space-only TimeSformer has the names of an image model; its file says what it is by its wrapper.
    is_video = "time_embed" in names or content.wrapper == "model_state"
    what = "published TimeSformer" if is_video else "image model"
    facts, notes = facts_from_cfg(content.cfg)
    return Source(
        f"{where} ({what})",
        "video" if is_video else "image",
        content.tensors,
        label_names,
        facts=facts,
        notes=notes,
    )


def facts_from_cfg(text: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the configuration inside a published training file says about its model and its clips, and notes on it."""
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


def _from_timm(where: str) -> Source:
    import timm

    name = where.removeprefix("timm:")
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*", pretrained=True)[:5])
        raise UserError(
            f"{where}: timm has no model of this name{f'; there are {near}, ...' if near else ''}"
        )
    try:
        model = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{where}: timm has no weights for it here ({str(error).splitlines()[0]}); download them on a machine with "
            "a network and copy the cache, or give the file"
        ) from error
    tensors = dict(model.state_dict())
    return _by_names(where, WeightFile(tensors), ())
