"""The configuration of a video run: `kind: video`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from revit.common.methods.run_options import DataOptions, ModelOptions, RecipeOptions
from revit.video.data.options import ClipOptions
from revit.video.demo import DemoOptions


class VideoData(ClipOptions, DataOptions):
    """Clips from files, or the demo's own data set."""

    demo: DemoOptions | None = None
    """Make the demo data set under RUN_DIR/data and use its lists, instead of `source`."""


class VideoModel(ModelOptions):
    """TimeSformer or, with several grids, ReViT-TimeSformer. Frame count and picture size are the data's."""

    embed_dim: int = Field(default=768, ge=1)
    depth: int = Field(default=12, ge=1)
    num_heads: int = Field(default=12, ge=1)
    attention: Literal["divided_space_time", "joint_space_time", "space_only"] = "divided_space_time"
    mlp_ratio: float = Field(default=4.0, gt=0)
    qkv_bias: bool = True
    drop_path_rate: float = Field(default=0.1, ge=0, lt=1)
    patch_embed: Literal["patchify", "stem", "shared"] = "patchify"
    """One convolution per grid, early convolutions per grid, or one kernel shared by all (ablation)."""
    distillation: Literal["shared", "per_grid", "none"] = "shared"
    """Distillation token and head of the shorter grids: one for all, one each, or none."""
    time_resize: Literal["linear", "nearest"] = "linear"
    time_std: float = Field(default=0.0, ge=0)
    """Spread of the time table at the start; 0 keeps an image model intact, from scratch 0.5 learns faster."""
    temporal_fc_std: float = Field(default=0.0, ge=0)
    """Spread of the layer after time attention; 0 keeps an image model intact."""

    @property
    def name(self) -> str:
        """Name in reports; there is no other."""
        return "timesformer"

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
