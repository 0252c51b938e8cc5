"""Starting an image model from weights made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from revit.common.models.base import GridModel
from revit.common.models.load_report import LoadReport
from revit.common.models.vit import ResizableTransformer
from revit.common.system.errors import UserError
from revit.common.weights import start
from revit.common.weights.source import Source, read_source
from revit.image.models.asvit import AsViT
from revit.image.models.lvvit import LVViT
from revit.image.weights.asvit import start_asvit


def start_from(
    model: GridModel,
    where: str,
    *,
    position_resize: str = "bicubic",
    label_names: Sequence[str] = (),
    pixels: start.Pixels | None = None,
) -> LoadReport:
    """Loads the weights at `where` into a DeiT or LV-ViT and says what became of each tensor.

    `where`: our checkpoint or the run's folder with one, ViT or DeiT weights with timm's names (.pth, .safetensors, a folder in timm's layout,
    `timm:NAME`), for an LV-ViT the files of its authors. `label_names`: the classes to be learned, see
    `revit.common.weights.start.start_from_source`. `pixels`: how the model's pictures are normalised, see `start.start_from_source`.

    Raises:
        UserError: nothing readable there, or weights that do not fit: the message lists every tensor at fault.
    """
    return start_from_source(
        model,
        read_source(where),
        position_resize=position_resize,
        label_names=label_names,
        pixels=pixels,
    )


def start_from_source(
    model: GridModel,
    source: Source,
    *,
    position_resize: str = "bicubic",
    label_names: Sequence[str] = (),
    pixels: start.Pixels | None = None,
) -> LoadReport:
    """As `start_from`, from weights that were read already."""
    if source.kind == "video" or any(".temporal_" in name or name == "time_embed" for name in source.tensors):
        raise UserError(
            f"{source.where}: weights of a video model, which pictures do not start from; give a ViT, a DeiT or an LV-ViT"
        )
    if isinstance(model, AsViT):
        return start_asvit(model, source, label_names)
    assert isinstance(model, ResizableTransformer)
    wanted, found = ("an LV-ViT" if is_lvvit else "a ViT or DeiT" for is_lvvit in _families(model, source))
    if wanted != found:
        raise UserError(
            f"{source.where}: weights of {found}, the model is {wanted}; give weights of its own kind or choose another "
            "model.name"
        )
    return start.start_from_source(
        model, source, position_resize=position_resize, label_names=label_names, pixels=pixels
    )


def _families(model: ResizableTransformer, source: Source) -> tuple[bool, bool]:
    return isinstance(model, LVViT), source.is_lvvit
