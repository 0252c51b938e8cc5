"""Starting a video model from weights made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from revit.common.errors import UserError
from revit.common.load_report import LoadReport
from revit.common.weights.fit import fit
from revit.video.models.blocks import Block
from revit.video.models.timesformer import TimeSformer
from revit.video.weights.from_image import add_time
from revit.video.weights.source import Source, read_source


def start_from(
    model: TimeSformer,
    where: str,
    *,
    position_resize: str = "bicubic",
    time_resize: str | None = None,
    label_names: Sequence[str] = (),
) -> LoadReport:
    """Loads the weights at `where` into `model`, whatever they are, and says what became of each tensor.

    `where`: our checkpoint, a published TimeSformer .pyth, a Hugging Face TimeSformer folder or `hf-hub:NAME`, image
    ViT or DeiT weights (.pth, .safetensors, a folder in timm's layout, `timm:NAME`).
    `position_resize` "nearest_flat" is the published rule for tables of another size; `time_resize` follows it
    ("nearest", else "linear") unless given. `label_names`: the classes to be learned; where the source names its own,
    rows of the head are brought into their order, or the head is made anew where they are other classes.

    Raises:
        UserError: nothing readable there, or weights that do not fit: the message lists every tensor at fault.
    """
    return start_from_source(
        model,
        read_source(where),
        position_resize=position_resize,
        time_resize=time_resize,
        label_names=label_names,
    )


def start_from_source(
    model: TimeSformer,
    source: Source,
    *,
    position_resize: str = "bicubic",
    time_resize: str | None = None,
    label_names: Sequence[str] = (),
) -> LoadReport:
    """As `start_from`, from weights that were read already."""
    report = LoadReport(source.where, label_names=source.label_names, notes=list(source.notes))
    _check_heads(model, source)
    for key in ("mean", "std"):
        if key in source.facts:
            values = ", ".join(f"{value:g}" for value in source.facts[key])
            report.notes.append(f"its pixels had {key} {values}; set data.pixels.{key} to the same")
    tensors = dict(source.tensors)
    if time_resize is None:
        time_resize = "nearest" if position_resize == "nearest_flat" else "linear"
    accounted = add_time(tensors, model, report, time_resize)
    return fit(
        model,
        tensors,
        report,
        position_resize=position_resize,
        source_grid=source.grid,
        label_names=label_names,
        accounted=accounted,
    )


def _check_heads(model: TimeSformer, source: Source) -> None:
    """The number of heads leaves no trace in the shapes, so a wrong one would load and answer nonsense."""
    theirs = source.facts.get("num_heads")
    block = model.blocks[0]
    if theirs is not None and isinstance(block, Block) and block.attn.num_heads != theirs:
        raise UserError(
            f"{source.where}: made with {theirs} attention heads, the model has {block.attn.num_heads}; "
            f"set model.num_heads={theirs}"
        )
