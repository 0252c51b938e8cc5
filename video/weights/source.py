"""The two ways in which TimeSformer weights are stored elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from revit.common.weights import source
from revit.common.weights.read import WeightFile
from revit.common.weights.source import Source
from revit.video.weights import hugging_face


def ported(where: str, content: WeightFile, config: Mapping[str, Any]) -> Source | None:
    """The Hugging Face port."""
    if not hugging_face.is_timesformer(content.tensors):
        return None
    return Source(
        where=f"{where} (Hugging Face TimeSformer)",
        kind="video",
        tensors=hugging_face.to_published(content.tensors),
        label_names=hugging_face.label_names(config),
        facts=hugging_face.facts(config),
    )


def published(where: str, content: WeightFile, config: Mapping[str, Any]) -> Source | None:
    """The authors' training files.

    A space-only TimeSformer has the names of an image model; its file says what it is by its wrapper.
    """
    names = content.tensors.keys()
    is_transformer = {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= names
    if not is_transformer or not ("time_embed" in names or content.wrapper == "model_state"):
        return None
    facts, notes = facts_from_cfg(content.cfg)
    return Source(f"{where} (published TimeSformer)", "video", content.tensors, facts=facts, notes=notes)


DIALECTS = (ported, published)


def read_source(where: str) -> Source:
    """`revit.common.weights.source.read_source`, understanding TimeSformers too."""
    return source.read_source(where, DIALECTS)


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
