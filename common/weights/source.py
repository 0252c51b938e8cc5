"""Weights of another project, brought to this project's names, with whatever is known about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from revit.common.models.grid import TokenGrid
from revit.common.system.errors import UserError
from revit.common.weights import hub
from revit.common.weights.checkpoint import Checkpoint, checkpoint_file, is_checkpoint, load_checkpoint
from revit.common.weights.facts import believable
from revit.common.weights.flexible import read_without_class_row
from revit.common.weights.read import WeightFile, read_weights
from revit.common.weights.reducers import our_names


@dataclass(frozen=True)
class Source:
    """Weights under the published names of this project's models."""

    where: str
    """What the user gave, and what it turned out to be."""
    kind: str
    """What the weights answer for, `video` or `image`; the names of checkpoints and configurations."""
    tensors: dict[str, Tensor]
    label_names: tuple[str, ...] = ()
    grids: tuple[TokenGrid, ...] = ()
    """Longest first, where the source says them."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was written beside the weights, each only where known: `num_heads`, `img_size`, `mean`, `std`; of clips
    `num_frames`, `sampling_rate`, `attention`; of pictures `crop_pct`, `crop_mode`, `interpolation`, `skip_lam`; of a FlexiViT,
    whose one position table has no row for the class token, `position_grid`."""
    notes: tuple[str, ...] = ()

    @property
    def is_lvvit(self) -> bool:
        """Whether these are an LV-ViT's: its stem and its head for patches say so."""
        return "patch_embed.conv1.weight" in self.tensors or "aux_head.weight" in self.tensors


Dialect = Callable[[str, WeightFile, Mapping[str, Any]], "Source | None"]
"""Recognises one project's way of storing weights: (what the user gave, the file, config.json beside it) -> the source,
or None where it is not this project's."""


def read_source(where: str, dialects: Sequence[Dialect] = ()) -> Source:
    """Reads our checkpoint (or the run's folder with one), another weight file, a Hugging Face folder, `hf-hub:NAME` or
    `timm:NAME`, and finds out what it is.

    `dialects` are asked in turn before `image_transformer`, which every package understands.

    Raises:
        UserError: nothing there, unreadable, or no vision transformer this project knows.
    """
    if where.startswith("timm:"):
        content, config = _from_timm(where)
    else:
        path = (
            hub.download(where) if where.startswith("hf-hub:") else Path(checkpoint_file(where)).expanduser()
        )
        if path.is_file() and is_checkpoint(path):
            return _believed(_from_checkpoint(where, load_checkpoint(path)))
        content, config = hub.read_folder(path) if path.is_dir() else (read_weights(path), {})
    for dialect in (*dialects, image_transformer):
        source = dialect(where, content, config)
        if source is not None:
            return _believed(source)
    shown = ", ".join(list(content.tensors)[:6])
    raise UserError(
        f"{where}: no vision transformer with a class token that is known here; its tensors are {shown}, ...; known are "
        "ViT and DeiT files with timm's names, LV-ViT files of its authors and, for clips, TimeSformer files of its "
        "authors or Hugging Face folders with it"
    )


def _believed(source: Source) -> Source:
    """The source with those of its facts that can be true, and a note on the others; what methods added has our names."""
    facts, notes = believable(source.facts)
    tensors = our_names(source.tensors)
    return replace(source, tensors=tensors, facts=facts, notes=(*source.notes, *notes))


def image_transformer(where: str, content: WeightFile, config: Mapping[str, Any]) -> Source | None:
    """ViT, DeiT and FlexiViT with timm's names, LV-ViT with its authors'."""
    if not {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= content.tensors.keys():
        return None
    names = config.get("label_names")  # a folder in timm's layout may carry them
    tensors, position_grid, notes = read_without_class_row(content.tensors)
    facts = _timm_facts(config.get("pretrained_cfg", {}))
    source = Source(
        where,
        "image",
        tensors,
        label_names=tuple(map(str, names)) if isinstance(names, list) else (),
        facts=facts if position_grid is None else facts | {"position_grid": position_grid},
        notes=(*content.notes, *notes),
    )
    what = "LV-ViT" if source.is_lvvit else "image model" if position_grid is None else "FlexiViT"
    return replace(source, where=f"{where} ({what})")


def _from_checkpoint(where: str, checkpoint: Checkpoint) -> Source:
    model, data = _section(where, checkpoint.config, "model"), _section(where, checkpoint.config, "data")
    written = {
        key: model[key] for key in ("num_heads", "attention", "skip_lam") if model.get(key) is not None
    }
    pixels = _section(where, data, "pixels")
    seen = {key: pixels[key] for key in ("mean", "std") if key in pixels}
    try:
        grids = tuple(TokenGrid.parse(grid) for grid in model.get("grids") or ())
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: the token grids of its configuration: {error}") from None
    return Source(
        where=f"{where} (our checkpoint, {checkpoint.kind})",
        kind=checkpoint.kind,
        tensors=dict(checkpoint.parts.get("model", {})),
        label_names=tuple(checkpoint.label_names),
        grids=grids,
        facts=written | seen | _section(where, checkpoint.extra, "architecture"),
    )


def _section(where: str, content: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A group of settings, empty where there is none. UserError if it is something else."""
    found = content.get(key, {})
    if not isinstance(found, dict):
        raise UserError(
            f"{where}: the {key} of its header is {found!r:.60}, no group of settings; copy it again"
        )
    return found


def _from_timm(where: str) -> tuple[WeightFile, dict[str, Any]]:
    import timm

    name = where.removeprefix("timm:")
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*", pretrained=True)[:5])
        raise UserError(
            f"{where}: timm has no model of this name{f'; there are {near}, ...' if near else ''}"
        )
    try:
        with hub.asked_once():
            model = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{where}: timm has no weights for it here ({str(error).splitlines()[0]}); download them on a machine with "
            "a network and copy the cache, or give the file"
        ) from error
    config = {"pretrained_cfg": dict(getattr(model, "pretrained_cfg", None) or {})}
    return WeightFile(dict(model.state_dict())), config


def _timm_facts(written: Any) -> dict[str, Any]:
    """What timm's `pretrained_cfg` says of the pictures a model wants."""
    if not isinstance(written, Mapping):
        return {}
    facts = {
        key: written[key]
        for key in ("mean", "std", "crop_pct", "crop_mode", "interpolation")
        if written.get(key)
    }
    size = written.get("input_size")
    if isinstance(size, (list, tuple)) and len(size) == 3:
        facts["img_size"] = size[-1]
    return facts
