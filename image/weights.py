"""Weights of image models made elsewhere: starting from them, and their architecture, enough to classify without a
configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor

from revit.common.methods.base import methods_found
from revit.common.models.base import GridModel
from revit.common.models.embed.patches import resize_positions
from revit.common.models.grid import TokenGrid
from revit.common.models.load_report import LoadReport
from revit.common.models.vit import ResizableTransformer
from revit.common.system.errors import UserError
from revit.common.weights import start
from revit.common.weights.adapt import TABLE, Fitting, draw_heads, take_heads
from revit.common.weights.source import Known, Source, heads_of, read_shapes, read_source, shape_of
from revit.image.data.options import IMAGENET_MEAN, IMAGENET_STD, PictureOptions, PicturePixelOptions
from revit.image.models.asvit import AsViT
from revit.image.models.transformers import DeiT, LVViT
from revit.image.models.variants import VARIANTS

OUT = "head.2."
"""Prefix of As-ViT's classifier, behind the head's hidden layer."""


def start_from(
    model: GridModel,
    source: Source | str,
    *,
    position_resize: str = "bicubic",
    label_names: Sequence[str] = (),
    pixels: start.Pixels | None = None,
) -> LoadReport:
    """Load weights into a DeiT, LV-ViT or As-ViT and report what became of each tensor.

    `source`: our checkpoint or the run's folder with one, ViT or DeiT weights with timm's names (.pth, .safetensors, a folder
    in timm's layout, `timm:NAME`), for an LV-ViT the files of its authors; or weights that were read already. `label_names`:
    the classes to be learned, and `pixels`, how the model's pictures are normalised: see `start.start_from_source`.

    Raises:
        UserError: nothing readable there, or weights that do not fit: the message lists every tensor at fault.
    """
    source = source if isinstance(source, Source) else read_source(source)
    if source.kind == "video" or any(".temporal_" in name or name == "time_embed" for name in source.tensors):
        raise UserError(
            f"{source.where}: weights of a video model, which pictures do not start from; give a ViT, a DeiT or an LV-ViT"
        )
    if isinstance(model, AsViT):
        return _start_asvit(model, source, label_names)
    assert isinstance(model, ResizableTransformer)
    if isinstance(model, LVViT) != source.is_lvvit:
        wanted, found = "an LV-ViT", "a ViT or DeiT"
        if source.is_lvvit:
            wanted, found = found, wanted
        raise UserError(
            f"{source.where}: weights of {found}, the model is {wanted}; give weights of its own kind or choose another "
            "model.name"
        )
    return start.start_from_source(
        model, source, position_resize=position_resize, label_names=label_names, pixels=pixels
    )


@torch.no_grad()
def _start_asvit(model: AsViT, source: Source, label_names: Sequence[str]) -> LoadReport:
    """Load another As-ViT of the same architecture.

    Pictures may have another size: a position table is resized bicubically. The classifier is made anew for other classes;
    the hidden layer of the head stays.
    """
    report = LoadReport(source.where, label_names=source.label_names, notes=list(source.notes))
    plain, own = (
        {name.replace(OUT, "head."): tensor for name, tensor in tensors.items()}
        for tensors in (source.tensors, model.state_dict())
    )
    fitting = Fitting(plain, own, report)
    new_heads = take_heads(fitting, tuple(label_names))
    table = plain.get(TABLE)
    if table is not None and TABLE in own and table.shape[1:] != own[TABLE].shape[1:]:
        fitting.put(TABLE, _resized(source, plain.pop(TABLE), model), table, "bicubic")
    start.take_rest(fitting, (), new_heads)
    report.check()
    draw_heads(own, new_heads)
    for name, tensor in fitting.ready.items():
        own[name].copy_(tensor)
    return report


def _resized(source: Source, table: Tensor, model: AsViT) -> Tensor:
    side = round(table.shape[1] ** 0.5)
    if table.ndim != 3 or side * side != table.shape[1] or table.shape[2] != model.genotype.width:
        raise UserError(
            f"{source.where}: a position table of shape {tuple(table.shape)} fits no square map of width "
            f"{model.genotype.width}; choose weights of the same architecture"
        )
    return resize_positions(table, 0, TokenGrid(side, side), model.full_grid, "bicubic")


LVVIT_CROPS = {(512, 20): 1.0, (768, 24): 1.0}
"""Share of the picture that evaluation keeps, by width and depth, where it is not 0.9."""


@dataclass(frozen=True)
class Inferred:
    """An untrained model and the pictures it wants."""

    model: DeiT | LVViT
    pictures: PictureOptions
    label_names: tuple[str, ...]
    """The source's own names, or ImageNet's where the number of classes is one of its; else empty."""
    assumed: tuple[str, ...]
    """Properties that the weights do not show and that were taken from the published recipes."""


def infer(source: Source) -> Inferred:
    """Infer the model and the pictures of an image model's weights.

    Shapes give width, depth, patch, picture size and classes; what lies beside the weights (`facts`) goes before any
    guess: heads are 64 wide (60 in LV-ViT-T), residual branches of an LV-ViT are divided as in the published model of
    that width and depth, and pictures are those of the published recipes unless it says otherwise.

    Raises:
        UserError: no image model, or shapes that make none, or one that does not suit the method it was trained with.
    """
    if source.kind != "image":
        raise UserError(f"{source.where}: weights of a video model cannot classify pictures; give an image model")
    known = Known(source.facts)
    mean, std, whose, crop_pct = IMAGENET_MEAN, IMAGENET_STD, "ImageNet's", 0.875
    if source.is_lvvit:
        arguments = _lvvit(source, known)
        crop_pct = LVVIT_CROPS.get((arguments["embed_dim"], arguments["depth"]), 0.9)
    else:
        arguments = _deit(source, known)
        if "position_grid" in arguments:
            mean, std, whose, crop_pct = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "FlexiViT's", 0.95
    pixels = PicturePixelOptions(
        img_size=arguments["img_size"],
        crop_pct=known.get("crop_pct", crop_pct, f"evaluation keeps {crop_pct:g} of the picture"),
        crop_mode=source.facts.get("crop_mode", "center"),
        interpolation=source.facts.get("interpolation", "bicubic"),
        mean=known.get("mean", mean, f"{whose} pixel mean"),
        std=known.get("std", std, f"{whose} pixel std"),
    )
    names = source.label_names
    subset = infer_imagenet_subset({"num_classes": arguments["num_classes"]})
    if not names and subset is not None:
        known.assumed.append(f"the classes of {subset}")
        info = ImageNetInfo(subset)
        names = tuple(info.index_to_description(number) for number in range(arguments["num_classes"]))
    model = (LVViT if source.is_lvvit else DeiT)(**arguments)
    for method in methods_found(source.tensors):
        known.assumed.append(method.assumption)
        method.attach(model)
    return Inferred(model, PictureOptions(pixels=pixels), names, tuple(known.assumed))


def _deit(source: Source, known: Known) -> dict[str, Any]:
    distilled, flexible = "dist_token" in source.tensors, source.facts.get("position_grid")
    shapes, kernel = read_shapes(source, "DeiT", num_prefix=0 if flexible else 2 if distilled else 1)
    size = {"img_size": shapes["grids"][0].rows * kernel, "num_heads": heads_of(source, known, shapes["embed_dim"])}
    if flexible is None:
        return {**shapes, **size, "distillation": "every_grid" if distilled else "none"}
    return {**shapes, **size, "patch_embed": "flexi", "kernel_size": kernel, "position_grid": flexible}


def _lvvit(source: Source, known: Known) -> dict[str, Any]:
    shapes, kernel = read_shapes(source, "LV-ViT")
    size = {key: shapes[key] for key in ("embed_dim", "depth")}
    sizes = [variant.arguments for variant in VARIANTS.values() if variant.model_class is LVViT]
    published = next((own for own in sizes if size.items() <= own.items()), {})
    num_heads = published.get("num_heads", max(1, shapes["embed_dim"] // 64))
    skip_lam = published.get("skip_lam", 2.0)
    convolutions = [f"patch_embed.conv{number}.weight" for number in (1, 2, 3)]
    return {
        **shapes,
        "img_size": shapes["grids"][0].rows * 2 * kernel,
        "num_heads": heads_of(source, known, shapes["embed_dim"], num_heads),
        "skip_lam": known.get("skip_lam", skip_lam, f"residual branches divided by {skip_lam:g}"),
        "stem_widths": tuple(shape_of(source, "LV-ViT", name, (None,) * 4)[0] for name in convolutions),
    }
