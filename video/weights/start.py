"""Starting a video model from weights made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from revit.common.models.load_report import LoadReport
from revit.common.system.errors import UserError
from revit.common.weights import start
from revit.common.weights.source import Source
from revit.video.models.timesformer import TimeSformer
from revit.video.weights.from_image import add_time
from revit.video.weights.source import read_source


def start_from(
    model: TimeSformer,
    where: str,
    *,
    position_resize: str = "bicubic",
    time_resize: str | None = None,
    label_names: Sequence[str] = (),
    pixels: start.Pixels | None = None,
) -> LoadReport:
    """Loads the weights at `where` into `model`, whatever they are, and says what became of each tensor.

    `where`: our checkpoint of clips or of pictures, or the run's folder with one (a ReViT-DeiT brings the parts of every
    grid that both have), a published TimeSformer .pyth, a Hugging Face TimeSformer folder or `hf-hub:NAME`, image ViT or DeiT weights (.pth,
    .safetensors, a folder in timm's layout, `timm:NAME`).
    `position_resize` "nearest_flat" is the published rule for tables of another size; `time_resize` follows it
    ("nearest", else "linear") unless given. `label_names`: the classes to be learned; where the source names its own,
    rows of the head are brought into their order, or the head is made anew where they are other classes. `pixels`: how the
    model's frames are normalised, see `revit.common.weights.start.start_from_source`.

    Raises:
        UserError: nothing readable there, or weights that do not fit: the message lists every tensor at fault.
    """
    return start_from_source(
        model,
        read_source(where),
        position_resize=position_resize,
        time_resize=time_resize,
        label_names=label_names,
        pixels=pixels,
    )


def start_from_source(
    model: TimeSformer,
    source: Source,
    *,
    position_resize: str = "bicubic",
    time_resize: str | None = None,
    label_names: Sequence[str] = (),
    pixels: start.Pixels | None = None,
) -> LoadReport:
    """As `start_from`, from weights that were read already."""
    if source.is_lvvit:
        raise UserError(
            f"{source.where}: an LV-ViT has another stem and other blocks than a TimeSformer; start from a ViT, a DeiT or "
            "a ReViT-DeiT"
        )
    how = time_resize or ("nearest" if position_resize == "nearest_flat" else "linear")
    return start.start_from_source(
        model,
        source,
        position_resize=position_resize,
        label_names=label_names,
        pixels=pixels,
        prepare=lambda tensors, report: add_time(tensors, model, report, how),
    )
