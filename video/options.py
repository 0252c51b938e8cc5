"""The configuration of a video run: `kind: video`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from revit.common.engine.run_options import RecipeOptions
from revit.common.options import Options
from revit.common.tokens.grid import longest_first
from revit.video.data.options import ClipOptions
from revit.video.demo import DemoOptions


class VideoData(ClipOptions):
    """Clips from files, or the demo's own data set."""

    demo: DemoOptions | None = None
    """Make the demo data set under RUN_DIR/data and use its lists, instead of `source`."""

    @model_validator(mode="after")
    def _one_source(self) -> VideoData:
        lists = [
            name for name in ("train", "val", "test", "label_names") if getattr(self.source, name) is not None
        ]
        if self.demo is not None and lists:
            raise ValueError(f"demo makes its own lists; remove source.{', source.'.join(lists)} or demo")
        return self


class VideoModel(Options):
    """TimeSformer or, with several grids, ReViT-TimeSformer. Frame count and picture size are the data's."""

    grids: tuple[str | int, ...] = ("14x14",)
    """Token grids of a frame, longest first; several make it a ReViT."""
    num_classes: int | None = Field(default=None, ge=1)
    """Null: as many as the data has. A number is checked against the data."""
    embed_dim: int = Field(default=768, ge=1)
    depth: int = Field(default=12, ge=1)
    num_heads: int = Field(default=12, ge=1)
    attention: Literal["divided_space_time", "joint_space_time", "space_only"] = "divided_space_time"
    mlp_ratio: float = Field(default=4.0, gt=0)
    qkv_bias: bool = True
    drop_path_rate: float = Field(default=0.1, ge=0, lt=1)
    patch_embed: Literal["patchify", "stem", "shared"] = "patchify"
    """One convolution per grid, early convolutions per grid, or one kernel shared by all (ablation)."""
    stem_widths: tuple[int, ...] | None = None
    """Widths of the early convolutions; all but the last halve the picture."""
    positions: Literal["separate", "shared_zero_pad", "shared_interpolate"] = "separate"
    distillation: Literal["shared", "per_grid", "none"] = "shared"
    """Distillation token and head of the shorter grids: one for all, one each, or none."""
    position_resize: Literal["bicubic", "nearest", "nearest_flat"] = "bicubic"
    time_resize: Literal["linear", "nearest"] = "linear"
    pos_std: float = Field(default=0.02, ge=0)
    """Spread of the position tables at the start."""
    time_std: float = Field(default=0.0, ge=0)
    """Spread of the time table at the start; 0 keeps an image model intact, from scratch 0.5 learns faster."""
    linear_std: float = Field(default=0.02, gt=0)
    """Spread of the linear weights at the start; a narrow model from scratch wants about embed_dim ** -0.5."""
    temporal_fc_std: float = Field(default=0.0, ge=0)
    """Spread of the layer after time attention; 0 keeps an image model intact."""

    @field_validator("grids")
    @classmethod
    def _longest_first(cls, grids: tuple[str | int, ...]) -> tuple[str, ...]:
        return tuple(grid.name for grid in longest_first(grids))

    @model_validator(mode="after")
    def _fits(self) -> VideoModel:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if self.stem_widths is not None and self.patch_embed != "stem":
            raise ValueError(f"stem_widths is for patch_embed stem, not {self.patch_embed}")
        return self


class VideoRun(RecipeOptions):
    """A whole video run."""

    kind: Literal["video"] = "video"
    data: VideoData
    model: VideoModel = VideoModel()

    @property
    def makes_data(self) -> bool:
        return self.data.demo is not None

    @property
    def has_lengths(self) -> bool:
        return len(self.model.grids) > 1

    def data_settings(self) -> dict[str, Any]:
        return self.data.model_dump(mode="json", exclude={"loading": True, "demo": {"num_workers"}})
