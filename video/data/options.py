"""Everything that can be chosen about clips: which frames, which pixels, how they are decoded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from revit.common.config.options import NotedOptions, Options
from revit.common.data.augment.options import AugmentOptions, MixOptions
from revit.common.data.options import LoadingOptions, SourceOptions


class FrameOptions(Options):
    """Frames of a file that make a clip."""

    num_frames: int = Field(default=8, ge=1)
    """T."""
    sampling_rate: float = Field(default=32, gt=0, le=1e5)
    """The clip spans num_frames * sampling_rate frames at `target_fps`."""
    target_fps: float = Field(default=30.0, ge=0.01, le=1e4)
    """The rate that `sampling_rate` counts in; files of other rates are spanned for the same time."""
    sampling: Literal["timesformer", "segments"] = "timesformer"
    """`timesformer`: a stretch of fixed duration. `segments` (Something-Something): the whole file in T parts."""
    one_view: Literal["centre", "start"] = "centre"
    """Place of a single test view. The published code, meaning the centre, takes the `start`."""

    @property
    def span(self) -> tuple[float, int]:
        """Seconds and frames that a file must have for all frames of a clip to be different ones."""
        seconds = self.num_frames * self.sampling_rate / self.target_fps if self.sampling == "timesformer" else 0.0
        return seconds, self.num_frames


class PixelOptions(NotedOptions):
    """Steps from frames to inputs."""

    later = ("resize",)
    crop_size: int = Field(default=224, ge=1)
    """Pixels of the square that the model sees."""
    jitter_min: int = Field(default=256, ge=1)
    """Training: smallest short side before cropping; also the short side of a test with one crop."""
    jitter_max: int = Field(default=320, ge=1)
    """Training: largest short side before cropping."""
    scale_sampling: Literal["uniform", "inverse-uniform"] = "uniform"
    """Training: draw the short side, or its inverse, uniformly (Something-Something recipes use the inverse)."""
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Training: chance of a left-right flip; 0 where left and right are classes."""
    crop_offsets: Literal["all", "published"] = "all"
    """Training: `published` leaves out the last row and column of offsets, an off-by-one of the published code."""
    antialias: bool = False
    """Smooth before shrinking. The published code does not."""
    resize: Literal["transform", "decoder"] = "transform"
    """Part that resizes. `decoder`: frames larger than wanted are shrunk while their colours are converted to RGB, which saves a little
    time on large files. It always smooths first, whatever `antialias` says, and differs a little from the transform even
    then (see `revit.video.data.decode.pyav.Converter`); frames to be enlarged stay the transform's."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """`bgr` only for the published Something-Something weights, which saw it by accident."""
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    """Subtracted per channel from pixels in [0, 1], on the device."""
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)
    """Divided by per channel, on the device."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.jitter_min > self.jitter_max:
            raise ValueError(f"jitter_min {self.jitter_min} is larger than jitter_max {self.jitter_max}; swap them")
        if self.crop_size > self.jitter_min:
            raise ValueError(
                f"crop_size {self.crop_size} does not fit into a short side of jitter_min {self.jitter_min}; "
                "raise jitter_min or lower crop_size"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive in every channel")
        return self


class ViewOptions(Options):
    """Looks at one file that are averaged in an evaluation."""

    num_temporal_views: int = Field(default=1, ge=1)
    """Stretches of the file."""
    num_crops: Literal[1, 3] = 1
    """1: the centre. 3: left, centre, right (top, centre, bottom of tall files)."""

    @property
    def num_views(self) -> int:
        """V."""
        return self.num_temporal_views * self.num_crops


ONE_VIEW = ViewOptions(num_temporal_views=1, num_crops=1)


class ClipLoadingOptions(LoadingOptions):
    """Reading of files of clips."""

    later = (*LoadingOptions.later, "damaged")
    decoder: Literal["auto", "decord", "pyav", "torchcodec"] = "auto"
    """Frames are the same with each: decord and torchcodec read the kinds of files for which that is proved, PyAV all others."""
    decode_timeout_seconds: float = Field(default=30.0, ge=0)
    """A file that takes longer is given up as broken. 0: decode without a helper process and without a limit."""
    damaged: Literal["refuse", "salvage"] = "refuse"
    """`refuse`: a file with a damaged or missing frame is broken. `salvage`: its other frames are read, and it is named and
    counted."""


class ClipOptions(NotedOptions):
    """The data section of a video run."""

    later = ("augment", "mix")
    source: SourceOptions = SourceOptions()
    frames: FrameOptions = FrameOptions()
    pixels: PixelOptions = PixelOptions()
    augment: AugmentOptions = AugmentOptions()
    """Augmentation beside the crop and the flip of `pixels`; the default is nothing (published)."""
    mix: MixOptions = MixOptions()
    val_views: ViewOptions = ViewOptions()
    """Evaluation during training. (The published code evaluates on randomly augmented clips there.)"""
    test_views: ViewOptions = ViewOptions(num_crops=3)
    """The final test; published: one stretch, three crops."""
    loading: ClipLoadingOptions = ClipLoadingOptions()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, views in (("val_views", self.val_views), ("test_views", self.test_views)):
            if self.frames.sampling == "segments" and views.num_temporal_views > 1:
                raise ValueError(
                    f"{name}.num_temporal_views is {views.num_temporal_views}, but with frames.sampling 'segments' "
                    "every temporal view is the same; set it to 1"
                )
        return self
