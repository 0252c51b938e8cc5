"""The configuration of an image run: `kind: image`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from revit.common.engine.run_options import DataOptions, ModelOptions, RecipeOptions
from revit.image.data.options import PictureOptions, PictureSourceOptions
from revit.image.demo import ImageDemoOptions
from revit.image.models.lvvit import LVViT
from revit.image.models.variants import VARIANTS
from revit.image.teacher import PictureDistillOptions


class ImageData(PictureOptions, DataOptions):
    """Pictures from files, or the demo's own data set."""

    source: PictureSourceOptions = PictureSourceOptions()
    demo: ImageDemoOptions | None = None
    """Make the demo data set under RUN_DIR/data and use its lists, instead of `source`."""


class ImageModel(ModelOptions):
    """DeiT or LV-ViT or, with several grids, ReViT-DeiT or ReViT-LV-ViT. The picture size is the data's.

    What is null is as the published model called `name` has it.
    """

    name: str = "deit_small"
    """deit_ or lvvit_ and a size; deit_SIZE_distilled is DeiT's distilled variant. See `revit.image.models.variants`."""
    embed_dim: int | None = Field(default=None, ge=1)
    depth: int | None = Field(default=None, ge=1)
    num_heads: int | None = Field(default=None, ge=1)
    mlp_ratio: float | None = Field(default=None, gt=0)
    drop_path_rate: float | None = Field(default=None, ge=0, lt=1)
    skip_lam: float | None = Field(default=None, gt=0)
    """LV-ViT: residual branches are divided by it."""
    patch_embed: Literal["patchify", "stem", "shared", "lvvit"] | None = None
    """One convolution per grid, early convolutions per grid, one kernel shared by all (ablation), or LV-ViT's stem."""
    distillation: Literal["shared", "per_grid", "none", "every_grid"] | None = None
    """Distillation token and head of the shorter grids: one for all, one each, or none; or DeiT's at every grid."""
    mix_token: bool = True
    """LV-ViT: exchange a rectangle of tokens between pictures in training."""

    @property
    def is_lvvit(self) -> bool:
        return VARIANTS[self.name].model_class is LVViT

    @property
    def is_distilled(self) -> bool:
        """Whether every grid has a distillation token."""
        return (self.distillation or VARIANTS[self.name].arguments.get("distillation")) == "every_grid"

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in VARIANTS:
            raise ValueError(f"no such model; choose from {', '.join(VARIANTS)}")
        return name

    @model_validator(mode="after")
    def _fits(self) -> ImageModel:
        if self.skip_lam is not None and not self.is_lvvit:
            raise ValueError(f"skip_lam is for LV-ViT, not {self.name}")
        if self.distillation == "every_grid" and self.is_lvvit:
            raise ValueError(
                f"distillation every_grid is DeiT's, not {self.name}'s; choose shared, per_grid or none"
            )
        if self.stem_widths is not None and self.patch_embed not in ("stem", "lvvit"):
            raise ValueError(f"stem_widths is for patch_embed stem or lvvit, not {self.patch_embed}")
        return self


class ImageRun(RecipeOptions):
    """A whole image run."""

    kind: Literal["image"] = "image"
    data: ImageData
    model: ImageModel = ImageModel()
    distill: PictureDistillOptions = PictureDistillOptions()

    @model_validator(mode="after")
    def _fits(self) -> ImageRun:
        if self.data.token_labels is not None and not self.model.is_lvvit:
            raise ValueError(
                f"data.token_labels is for LV-ViT, whose patches have a head; {self.model.name} has none: leave it out"
            )
        if self.distill.teacher is not None and not self.model.is_distilled:
            raise ValueError(
                "distill.teacher teaches a distillation token at every grid, which this model has not; choose "
                "model.name deit_..._distilled or model.distillation every_grid"
            )
        if self.assigner.num_frames != 1:
            raise ValueError(
                f"assigner.num_frames is {self.assigner.num_frames}, but a picture has one frame"
            )
        return self
