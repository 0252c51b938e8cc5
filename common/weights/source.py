"""Weights of another project, brought to this project's names, with whatever is known about them: beside them, or by names and shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch.nn.functional as F
from pydantic import BeforeValidator, Field, FiniteFloat, PositiveInt, TypeAdapter, ValidationError
from torch import Tensor

from revit.common.methods.base import known_methods
from revit.common.models.grid import TokenGrid
from revit.common.system.errors import UserError
from revit.common.weights.adapt import KERNEL, TABLE
from revit.common.weights.checkpoint import Checkpoint, checkpoint_file, is_checkpoint, load_checkpoint
from revit.common.weights.read import WeightFile, cache_if_offline, download, read_folder, read_weights


@dataclass(frozen=True)
class Source:
    """Weights under the published names of this project's models."""

    where: str
    """Place that the user gave, and what it turned out to be."""
    kind: str
    """Kind of input, `video` or `image`; the names of checkpoints and configurations."""
    tensors: dict[str, Tensor]
    label_names: tuple[str, ...] = ()
    grids: tuple[TokenGrid, ...] = ()
    """Token grids, longest first, where the source says them."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts written beside the weights, each only where known: `num_heads`, `img_size`, `mean`, `std`; of clips
    `num_frames`, `sampling_rate`, `attention`; of pictures `crop_pct`, `crop_mode`, `interpolation`, `skip_lam`; of a
    FlexiViT, whose one position table has no row for the class token, `position_grid`."""
    notes: tuple[str, ...] = ()

    @property
    def is_lvvit(self) -> bool:
        """An LV-ViT's stem or its head for patches is among the tensors."""
        return "patch_embed.conv1.weight" in self.tensors or "aux_head.weight" in self.tensors


Dialect = Callable[[str, WeightFile, Mapping[str, Any]], "Source | None"]
"""Recognises one way of storing weights: (what the user gave, the file, config.json) -> the source, or None."""


def read_source(where: str, dialects: Sequence[Dialect] = ()) -> Source:
    """Read our checkpoint (or the run's folder with one), another weight file, a Hugging Face folder, `hf-hub:NAME` or
    `timm:NAME`, and find out what it is. `dialects` are asked before `image_transformer`, which every modality understands.

    Raise UserError: nothing there, unreadable, or no vision transformer this project knows.
    """
    if where.startswith("timm:"):
        content, config = _from_timm(where)
    else:
        is_hub = where.startswith("hf-hub:")
        path = download(where) if is_hub else Path(checkpoint_file(where)).expanduser()
        if path.is_file() and is_checkpoint(path):
            return _believed(_from_checkpoint(where, load_checkpoint(path)))
        content, config = read_folder(path) if path.is_dir() else (read_weights(path), {})
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
    """Keep the facts that can be true, with a note on the others, and rename what methods added to the names here."""
    facts, notes = believable(source.facts)
    pairs = [pair for method in known_methods().values() for pair in method.published_names.items()]
    renamed = {}
    for name, tensor in source.tensors.items():
        ours = (own + name.removeprefix(theirs) for theirs, own in pairs if name.startswith(theirs))
        renamed[next(ours, name)] = tensor
    return replace(source, tensors=renamed, facts=facts, notes=(*source.notes, *notes))


def image_transformer(where: str, content: WeightFile, config: Mapping[str, Any]) -> Source | None:
    """Recognise ViT, DeiT and FlexiViT with timm's names, LV-ViT with its authors'."""
    if not {"cls_token", TABLE, KERNEL} <= content.tensors.keys():
        return None
    names = config.get("label_names")  # a folder in timm's layout may carry them
    tensors, position_grid, notes = _without_class_row(content.tensors)
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


def _without_class_row(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], TokenGrid | None, list[str]]:
    """Bring timm's tensors to the form known here; return them, the position grid of a FlexiViT, and notes.

    - DeiT III scales its residual branches by learned vectors, which are multiplied into the layers before them.
    - A table of a square number of rows has none for the class token (n x n patches and a class token never are a
      square). Beside such vectors it is DeiT III's and gets a row of zeros, which changes nothing; without them it is that
      of a FlexiViT.
    """
    notes: list[str] = []
    scaled = any(name.endswith(".ls1.gamma") for name in tensors)
    if scaled:
        tensors = _without_layer_scale(tensors)
        notes.append("the scales of its residual branches were multiplied into the layers before them")
    table = tensors[TABLE]
    side = math.isqrt(table.shape[1]) if table.ndim == 3 else 0
    if side == 0 or side * side != table.shape[1]:
        return tensors, None, notes
    if scaled:
        notes.append("its class token has no position; that row of the table is zero")
        return {**tensors, TABLE: F.pad(table, (0, 0, 1, 0))}, None, notes
    size = "x".join(map(str, tensors[KERNEL].shape[2:]))
    notes.append(
        f"a FlexiViT in timm's form: its kernel was already resized to {size} pixels when it was converted, the one it was "
        "trained with is not in the file; all other sizes are made from this one, larger ones exactly, smaller ones nearly"
    )
    return tensors, TokenGrid(side, side), notes


def _without_layer_scale(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold the scales: x + gamma * (W y + b) is x + (gamma W) y + gamma b."""
    folded = dict(tensors)
    for branch, layer in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
        for name, gamma in tensors.items():
            block, found, _ = name.rpartition(f".{branch}.gamma")
            if found:
                del folded[name]
                folded[f"{block}.{layer}.weight"] = tensors[f"{block}.{layer}.weight"] * gamma[:, None]
                folded[f"{block}.{layer}.bias"] = tensors[f"{block}.{layer}.bias"] * gamma
    return folded


def _from_checkpoint(where: str, checkpoint: Checkpoint) -> Source:
    model, data = _section(where, checkpoint.config, "model"), _section(where, checkpoint.config, "data")
    pixels = _section(where, data, "pixels")
    facts = {key: model.get(key) for key in ("num_heads", "attention", "skip_lam")}
    facts = {key: value for key, value in facts.items() if value is not None}
    facts |= {key: pixels[key] for key in ("mean", "std") if key in pixels}
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
        facts=facts | _section(where, checkpoint.extra, "architecture"),
    )


def _section(where: str, content: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a group of settings, empty where there is none. Raise UserError if it is something else."""
    found = content.get(key, {})
    if not isinstance(found, dict):
        raise UserError(f"{where}: the {key} of its header is {found!r:.60}, no group of settings; copy it again")
    return found


def _from_timm(where: str) -> tuple[WeightFile, dict[str, Any]]:
    import timm  # slow to import

    name = where.removeprefix("timm:")
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*", pretrained=True)[:5])
        raise UserError(f"{where}: timm has no model of this name{f'; there are {near}, ...' if near else ''}")
    try:
        with cache_if_offline():
            model = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{where}: timm has no weights for it here ({str(error).splitlines()[0]}); download them on a machine with "
            "a network and copy the cache, or give the file"
        ) from error
    config = {"pretrained_cfg": dict(getattr(model, "pretrained_cfg", None) or {})}
    return WeightFile(dict(model.state_dict())), config


def _timm_facts(written: Any) -> dict[str, Any]:
    """Pick what timm's `pretrained_cfg` says of the pictures a model wants."""
    if not isinstance(written, Mapping):
        return {}
    keys = ("mean", "std", "crop_pct", "crop_mode", "interpolation")
    facts = {key: written[key] for key in keys if written.get(key)}
    size = written.get("input_size")
    return facts | ({"img_size": size[-1]} if isinstance(size, (list, tuple)) and len(size) == 3 else {})


def _each_channel(value: Any) -> Any:
    """Repeat one number for all three channels, as it is where it is subtracted."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [*values] * 3 if len(values) == 1 else values


Positive = Annotated[FiniteFloat, Field(gt=0)]
FACTS: dict[str, Any] = {
    "num_heads": PositiveInt,
    "skip_lam": Positive,
    "layer_norm_eps": Positive,
    "attention": str,
    "position_grid": Annotated[TokenGrid, BeforeValidator(TokenGrid.parse)],
    "num_frames": PositiveInt,
    "sampling_rate": Annotated[FiniteFloat, Field(gt=0, le=1e5)],
    "img_size": PositiveInt | tuple[PositiveInt, PositiveInt],
    "mean": Annotated[tuple[FiniteFloat, FiniteFloat, FiniteFloat], BeforeValidator(_each_channel)],
    "std": Annotated[tuple[Positive, Positive, Positive], BeforeValidator(_each_channel)],
    "crop_pct": Annotated[FiniteFloat, Field(gt=0, le=1)],
    "crop_mode": Literal["center", "squash", "border"],
    "interpolation": Literal["nearest", "bilinear", "bicubic", "lanczos"],
}
"""Type of each of `Source.facts`."""


def believable(written: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the facts that can be true, each of its type, and a note on every other one."""
    facts, notes = {}, []
    for key, value in written.items():
        if key not in FACTS:  # of a newer version, or nonsense
            notes.append(f"its {key} is not known here and was not used")
            continue
        try:
            facts[key] = TypeAdapter(FACTS[key]).validate_python(value)
        except ValidationError:
            text = repr(value)
            text = text if len(text) <= 60 else f"{text[:57]}..."
            notes.append(f"its {key} is written as {text}, which cannot be; it was not used")
    return facts, tuple(notes)


@dataclass
class Known:
    """Facts beside the weights, which go before any guess; the guesses are written down."""

    facts: Mapping[str, Any]
    assumed: list[str] = field(default_factory=list)
    """Guesses from the published recipes, in words."""

    def get(self, key: str, otherwise: Any, text: str) -> Any:
        """Return the fact, or `otherwise`, which `text` puts in words."""
        if key in self.facts:
            return self.facts[key]
        self.assumed.append(text)
        return otherwise


def read_shapes(source: Source, what: str, num_prefix: int = 1) -> tuple[dict[str, Any], int]:
    """Return the constructor arguments of `what`, a plain transformer on square pictures, that shapes tell, and the side of its
    patch embedding's last kernel. `num_prefix`: rows of the position table that stand for no patch.

    Raise UserError: parts are missing or of another form, or the pictures were not square.
    """
    width, _, *kernel = shape_of(source, what, KERNEL, (None,) * 4)
    hidden, _ = shape_of(source, what, "blocks.0.mlp.fc1.weight", (None, width))
    num_classes, _ = shape_of(source, what, "head.weight", (None, width))
    num_positions = shape_of(source, what, TABLE, (1, None, width))[1] - num_prefix
    side = math.isqrt(max(0, num_positions))
    if side == 0 or side * side != num_positions or len(set(kernel)) != 1:
        raise UserError(f"{source.where}: {num_positions} positions of {kernel} pixels are no square picture")
    blocks = {int(match[1]) for name in source.tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    arguments = {
        "grids": (TokenGrid(side, side),),
        "num_classes": num_classes,
        "embed_dim": width,
        "depth": len(blocks),
        "mlp_ratio": hidden / width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in source.tensors,
    }
    return arguments, kernel[0]


def shape_of(source: Source, what: str, name: str, wanted: Sequence[int | None]) -> tuple[int, ...]:
    """Return the shape of a tensor that every `what` has. wanted: its sizes, None for any but 0.

    Raise UserError: the tensor is missing, or its shape is another.
    """
    tensor = source.tensors.get(name)
    if tensor is None:
        raise UserError(f"{source.where}: not a whole {what} with its classifier ({name} is missing)")
    shape = tuple(tensor.shape)
    if len(shape) != len(wanted) or 0 in shape or any(b not in (None, a) for a, b in zip(shape, wanted)):
        form = " x ".join("any" if must is None else str(must) for must in wanted)
        raise UserError(f"{source.where}: its {name} has shape {shape}, where a {what} has {form}")
    return shape


def heads_of(source: Source, known: Known, embed_dim: int, otherwise: int | None = None) -> int:
    """Return the count of attention heads: as written beside the weights, `otherwise`, or heads 64 wide.

    Raise UserError: so many cannot share the width.
    """
    text = "heads 64 wide" if otherwise is None else f"{otherwise} heads"
    heads = known.get("num_heads", otherwise or max(1, embed_dim // 64), text)
    if embed_dim % heads:
        written = "written beside it" if "num_heads" in source.facts else f"a guess ({text})"
        raise UserError(
            f"{source.where}: its width of {embed_dim} is no multiple of its {heads} heads, which are {written}; use it with "
            "a configuration that sets model.num_heads, as tools/test_net.py does"
        )
    return int(heads)
