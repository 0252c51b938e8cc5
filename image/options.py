"""The configuration of an image run: `kind: image`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from revit.common.config.options import Options
from revit.common.methods.run_options import DataOptions, DistillOptions, GridModelOptions, ModelOptions, RecipeOptions
from revit.common.models.embed.patches import sides_of
from revit.common.models.grid import TokenGrid, longest_first
from revit.image.data.options import PictureOptions, PictureSourceOptions
from revit.image.demo import ImageDemoOptions
from revit.image.models.asvit import STEM_STRIDE
from revit.image.models.genotype import read_genotype, stem_map
from revit.image.models.transformers import LVViT
from revit.image.models.variants import VARIANTS


class ImageData(PictureOptions, DataOptions):
    """Pictures from files, or the demo's own data set."""

    source: PictureSourceOptions = PictureSourceOptions()
    demo: ImageDemoOptions | None = None
    """Make the demo data set under RUN_DIR/data and use its lists, instead of `source`."""


def _known(name: str) -> str:
    if name not in VARIANTS:
        raise ValueError(f"no such model; choose from {', '.join(VARIANTS)}")
    return name


ModelName = Annotated[str, AfterValidator(_known)]
"""Name of a published model."""


class ImageModel(ModelOptions):
    """DeiT or LV-ViT or, with several grids, ReViT-DeiT or ReViT-LV-ViT. The picture size is the data's.

    What is null is as the published model called `name` has it.
    """

    model_config = ConfigDict(title="DeiT, LV-ViT")

    name: ModelName = "deit_small"
    """deit_ or lvvit_ and a size; deit_SIZE_distilled is DeiT's distilled variant. See `revit.image.models.variants`."""
    embed_dim: int | None = Field(default=None, ge=1)
    depth: int | None = Field(default=None, ge=1)
    num_heads: int | None = Field(default=None, ge=1)
    mlp_ratio: float | None = Field(default=None, gt=0)
    drop_path_rate: float | None = Field(default=None, ge=0, lt=1)
    skip_lam: float | None = Field(default=None, gt=0)
    """Divisor of LV-ViT's residual branches."""
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
        """True if every grid has a distillation token."""
        return (self.distillation or VARIANTS[self.name].arguments.get("distillation")) == "every_grid"

    def arguments(self) -> dict[str, Any]:
        """Return the constructor arguments in which this differs from the model called `name`."""
        return self.model_dump(exclude={"name", "num_classes", "budget", "mix_token"}, exclude_none=True)

    @model_validator(mode="after")
    def _fits(self) -> ImageModel:
        if self.skip_lam is not None and not self.is_lvvit:
            raise ValueError(f"skip_lam is for LV-ViT, not {self.name}")
        if self.distillation == "every_grid" and self.is_lvvit:
            raise ValueError(f"distillation every_grid is DeiT's, not {self.name}'s; choose shared, per_grid or none")
        if self.stem_widths is not None and self.patch_embed not in ("stem", "lvvit"):
            raise ValueError(f"stem_widths is for patch_embed stem or lvvit, not {self.patch_embed}")
        return self


class AsViTModel(GridModelOptions):
    """As-ViT: its own kind, without patches of one size and without a class token."""

    model_config = ConfigDict(title="As-ViT")

    name: ModelName
    """Published model: asvit_seed, asvit_small, asvit_base, asvit_large."""
    genotype: str | None = None
    """Another architecture than the one called `name`: "K,S,E,L|K,S,E,L|K,S,E,L|K,S,E,L|heads,width", kernel, attention
    splits, expansion and depth of four stages; or a file that holds it."""
    grids: tuple[str | int, ...] = ()
    """Maps of the stem to run at, longest first. None: a quarter of the picture's side, the full map."""
    position: Literal["none", "absolute"] = "none"
    """absolute: a position table on the stem's map, with which the paper's parameter counts come out."""
    drop_path_rate: float = Field(default=0.0, ge=0, lt=1)
    linear_std: float = Field(default=0.02, gt=0)
    """Spread of the linear weights at the start; a narrow model from scratch wants more, about 0.1."""

    @field_validator("genotype")
    @classmethod
    def _is_readable(cls, genotype: str | None) -> str | None:
        return None if genotype is None else str(read_genotype(genotype))

    @field_validator("grids")
    @classmethod
    def _longest_first(cls, grids: tuple[str | int, ...]) -> tuple[str, ...]:
        return tuple(grid.name for grid in longest_first(grids)) if grids else ()

    def arguments(self) -> dict[str, Any]:
        """Return the constructor arguments in which this differs from the model called `name`."""
        given = self.model_dump(exclude={"name", "num_classes", "budget", "genotype", "grids"})
        if self.genotype is not None:
            given["genotype"] = self.genotype
        return given | ({"grids": self.grids} if self.grids else {})


def _model_class(value: Any) -> str:
    """Return the class that a `model` section is read as; pydantic names it as the tag of the union."""
    name = value.get("name", "") if isinstance(value, dict) else getattr(value, "name", "")
    return AsViTModel.__name__ if str(name).startswith("asvit") else ImageModel.__name__


AnyImageModel = Annotated[
    Annotated[ImageModel, Tag(ImageModel.__name__)] | Annotated[AsViTModel, Tag(AsViTModel.__name__)],
    Discriminator(_model_class),
]


class TeacherOptions(Options):
    """The network that teaches the distillation token, in place of the longest grid."""

    source: str
    """timm:NAME of any classifier (DeiT: timm:regnety_160.deit_in1k), or a checkpoint or weight file of an image model."""
    kind: Literal["hard", "soft"] = "hard"
    """Target: the teacher's decision, or its distribution."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Weight of the teacher; 1 - alpha is that of the labels."""
    tau: float = Field(default=1.0, gt=0)
    """Temperature of the distribution."""


class PictureDistillOptions(DistillOptions):
    """Self-distillation of the shorter grids, or distillation of all grids from another network."""

    teacher: TeacherOptions | None = None
    """Network that teaches all grids; null: the longest grid teaches the others."""


class ImageRun(RecipeOptions):
    """A whole image run."""

    kind: Literal["image"] = "image"
    data: ImageData
    model: AnyImageModel = ImageModel()
    distill: PictureDistillOptions = PictureDistillOptions()

    @property
    def grids(self) -> tuple[TokenGrid, ...]:
        """Token grids of the model, longest first."""
        if isinstance(self.model, AsViTModel) and not self.model.grids:
            return (stem_map(sides_of(self.data.pixels.size), STEM_STRIDE),)
        return super().grids

    @model_validator(mode="after")
    def _fits(self) -> ImageRun:
        model = self.model if isinstance(self.model, ImageModel) else None
        if self.data.token_labels is not None and not (model and model.is_lvvit):
            raise ValueError(
                f"data.token_labels is for LV-ViT, whose patches have a head; {self.model.name} has none: leave it out"
            )
        if self.distill.teacher is not None and not (model and model.is_distilled):
            raise ValueError(
                "distill.teacher teaches a distillation token at every grid, which this model has not; choose "
                "model.name deit_..._distilled or model.distillation every_grid"
            )
        several = self.data.source.several_labels
        if several and (self.distill.teacher is not None or (model and model.is_lvvit)):
            what = (
                "distill.teacher says"
                if self.distill.teacher is not None
                else f"the patches of {self.model.name} learn"
            )
            raise ValueError(
                f"{what} which one class a picture is of, and with data.source.several_labels it may have several; leave one "
                "of them out, or choose a DeiT or an As-ViT"
            )
        if self.assigner.num_frames != 1:
            raise ValueError(f"assigner.num_frames is {self.assigner.num_frames}, but a picture has one frame")
        return self
