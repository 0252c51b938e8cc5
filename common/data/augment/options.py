"""Augmentation of training samples, and mixing of those of a batch: one set of keys for pictures and clips."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from revit.common.config.options import Options
from revit.common.system.errors import UserError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class AugmentOptions(Options):
    """Augmentation of single training samples. All frames of a clip are changed alike, by one draw."""

    scale: tuple[float, float] | None = None
    """Smallest and largest share of the area that a random crop takes, in place of the crop after `pixels.jitter_min` and
    `jitter_max`. Null: that one."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width of a crop of `scale`, in heights."""
    interpolation: Interpolation | Literal["random"] = "bicubic"
    """Interpolation of crops of `scale`, which are smoothed before shrinking, and of what a policy moves; `random` draws
    bilinear or bicubic for each."""
    flip_probability: float | None = Field(default=None, ge=0, le=1)
    """Chance of a left-right flip; 0 where left and right are classes. Null: `pixels.flip_probability`."""
    auto_augment: str | None = None
    """timm's text of a RandAugment, AutoAugment or AugMix policy; DeiT: rand-m9-mstd0.5-inc1, MViT: rand-m7-n4-mstd0.5-inc1."""
    color_jitter: float | tuple[float, float, float] | tuple[float, float, float, float] | None = None
    """Strength for brightness, contrast and saturation (and hue). Has no effect beside `auto_augment`, as in timm."""
    erase_probability: float = Field(default=0.0, ge=0, le=1)
    """Random erasing (Zhong et al.): chance that a rectangle, in a clip the same of all frames, is replaced."""
    erase_mode: Literal["const", "rand", "pixel"] = "pixel"
    """Filling of erased rectangles: zeros, one random colour, or noise."""
    erase_count: int = Field(default=1, ge=1)
    """Largest number of rectangles of one sample."""
    repeats: int = Field(default=1, ge=1)
    """Repeated augmentation: times that an epoch shows each sample that it shows. The epoch stays as long, so 3 (DeiT)
    means a third of the samples."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, limits in (("scale", self.scale), ("ratio", self.ratio)):
            if limits is not None and not 0 < limits[0] <= limits[1]:
                raise ValueError(f"{name} {limits} must be two positive numbers, the smaller first")
        if self.scale is not None and self.scale[1] > 1:
            raise ValueError(f"scale {self.scale} is a share of the picture's area; it ends at 1")
        if self.scale is None and self.ratio != type(self).model_fields["ratio"].default:
            raise ValueError("ratio belongs to crops of scale, which is null; set scale too, such as [0.5, 1.0]")
        if self.auto_augment is not None:
            # Imported here: it takes most of a second, and most configurations do without.
            from revit.common.data.augment.policies import read_policy

            read_policy(self.auto_augment)
        return self


class MixOptions(Options):
    """Mixing of samples of a batch with each other, and of their labels (timm's Mixup). Frames of clips meet frame by frame,
    with one share and one rectangle for all (for cutmix the spatial variant of VideoMix, Yun et al. 2020, section 3)."""

    mixup: float = Field(default=0.0, ge=0)
    """Parameter of the shares' distribution Beta(mixup, mixup); 0: no mixup. DeiT: 0.8."""
    cutmix: float = Field(default=0.0, ge=0)
    """Parameter of the same for rectangles cut from the partner; 0: no cutmix. DeiT: 1.0."""
    probability: float = Field(default=1.0, ge=0, le=1)
    """Chance that a batch (or pair, or element) is mixed at all."""
    switch_probability: float = Field(default=0.5, ge=0, le=1)
    """Chance of cutmix rather than mixup where both are on."""
    mode: Literal["batch", "pair", "elem"] = "batch"
    """Unit of one draw."""

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def check_batch(self, batch_size: int) -> None:
        """Raise UserError where batches of so many samples are to be mixed and cannot be."""
        if self.mixes and batch_size < 2:
            raise UserError(
                "data.mix mixes the samples of a batch with each other, and train.batch_size is 1; make it 2 or more, or set "
                "mix.mixup and mix.cutmix to 0"
            )
