"""Architecture of a bare weight file of an image model: enough to classify without a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timm.data import ImageNetInfo, infer_imagenet_subset

from revit.common.methods.base import Method
from revit.common.methods.registry import methods_found
from revit.common.models.vit import ResizableTransformer
from revit.common.system.errors import UserError
from revit.common.weights.shapes import Known, Shapes, heads_of, read_shapes, shape_of
from revit.common.weights.source import Source
from revit.image.data.options import IMAGENET_MEAN, IMAGENET_STD, PictureOptions, PicturePixelOptions
from revit.image.models.deit import DeiT
from revit.image.models.lvvit import LVViT
from revit.image.models.variants import VARIANTS

LVVIT_CROPS = {(512, 20): 1.0, (768, 24): 1.0}
"""Share of the picture that evaluation keeps, by width and depth, where it is not 0.9."""


@dataclass(frozen=True)
class Inferred:
    """A model to build and the pictures it wants."""

    family: type[DeiT] | type[LVViT]
    arguments: Mapping[str, Any]
    pictures: PictureOptions
    label_names: tuple[str, ...]
    """The source's own names, or ImageNet's where the number of classes is one of its; else empty."""
    assumed: tuple[str, ...]
    """Properties that the weights do not show and that were taken from the published recipes."""
    methods: tuple[Method, ...] = ()
    """Methods with which they were trained."""

    def build(self) -> ResizableTransformer:
        """Build the untrained model. UserError if a method does not suit it."""
        model = self.family(**self.arguments)
        for method in self.methods:
            method.attach(model)
        return model


def infer(source: Source) -> Inferred:
    """Infer the model and the pictures of an image model's weights.

    Shapes give width, depth, patch, picture size and classes; what lies beside the weights (`facts`) goes before any
    guess: heads are 64 wide (60 in LV-ViT-T), residual branches of an LV-ViT are divided as in the published model of
    that width and depth, and pictures are those of the published recipes unless it says otherwise.

    Raises:
        UserError: no image model, or shapes that make none.
    """
    if source.kind != "image":
        raise UserError(f"{source.where}: weights of a video model cannot classify pictures; give an image model")
    known = Known(source.facts)
    mean, std, whose, crop_pct = IMAGENET_MEAN, IMAGENET_STD, "ImageNet's", 0.875
    family: type[DeiT] | type[LVViT] = LVViT if source.is_lvvit else DeiT
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
    methods = methods_found(source.tensors)
    known.assumed += [method.assumption for method in methods]
    return Inferred(family, arguments, PictureOptions(pixels=pixels), names, tuple(known.assumed), methods)


def _deit(source: Source, known: Known) -> dict[str, Any]:
    distilled, flexible = "dist_token" in source.tensors, source.facts.get("position_grid")
    shapes = read_shapes(source, "DeiT", num_prefix=0 if flexible else 2 if distilled else 1)
    common = _common(shapes, shapes.kernel, heads_of(source, known, shapes.embed_dim))
    if flexible is None:
        return {**common, "distillation": "every_grid" if distilled else "none"}
    return {**common, "patch_embed": "flexi", "kernel_size": shapes.kernel, "position_grid": flexible}


def _lvvit(source: Source, known: Known) -> dict[str, Any]:
    shapes = read_shapes(source, "LV-ViT")
    size = {"embed_dim": shapes.embed_dim, "depth": shapes.depth}
    sizes = [variant.arguments for variant in VARIANTS.values() if variant.model_class is LVViT]
    published = next((own for own in sizes if size.items() <= own.items()), {})
    num_heads = published.get("num_heads", max(1, shapes.embed_dim // 64))
    skip_lam = published.get("skip_lam", 2.0)
    convolutions = [f"patch_embed.conv{number}.weight" for number in (1, 2, 3)]
    return {
        **_common(shapes, 2 * shapes.kernel, heads_of(source, known, shapes.embed_dim, num_heads)),
        "skip_lam": known.get("skip_lam", skip_lam, f"residual branches divided by {skip_lam:g}"),
        "stem_widths": tuple(shape_of(source, "LV-ViT", name, (None,) * 4)[0] for name in convolutions),
    }


def _common(shapes: Shapes, patch: int, heads: int) -> dict[str, Any]:
    return {
        "img_size": shapes.grid.rows * patch,
        "grids": (shapes.grid,),
        "num_classes": shapes.num_classes,
        "embed_dim": shapes.embed_dim,
        "depth": shapes.depth,
        "num_heads": heads,
        "mlp_ratio": shapes.mlp_ratio,
        "qkv_bias": shapes.qkv_bias,
    }
