"""The `data` section of an image run: sources, pixels, augmentation, mixing and token labels of pictures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from revit.common.config.options import Options
from revit.common.data.augment.options import AugmentOptions, Interpolation, MixOptions
from revit.common.data.options import LoadingOptions, SourceOptions

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

AxisOrder = Literal["corrected", "official"]
Covers = Literal["picture", "centre_square"]


class PictureSourceOptions(SourceOptions):
    """Lists of pictures and their labels; besides lists and folders, a `.tar` file or a folder of such files."""

    classes: int | str | tuple[str | int, ...] | None = None
    """Only these classes, numbered anew in this order: names or numbers, or a file that lists them; a number N means the
    first N. Null: all. Not with `several_labels`."""

    @model_validator(mode="after")
    def _has_one_label(self) -> Self:
        if self.classes is not None and self.several_labels:
            raise ValueError(
                "classes takes pictures of some classes, and with several_labels a picture may be of those and of others; "
                "leave classes out and write the list that is meant"
            )
        return self


class PicturePixelOptions(Options):
    """Size, crop and normalisation of pictures."""

    img_size: int | tuple[int, int] = 224
    """Size of the model's input in pixels: the side of a square, or height and width."""
    crop_pct: float = Field(default=0.875, gt=0, le=1)
    """Evaluation: share of the resized picture's short side that the crop keeps; 0.875 resizes to 256 for 224."""
    crop_mode: Literal["center", "squash", "border"] = "center"
    """Evaluation: cut the centre out; squash the whole picture to a square first; or show all of it between borders."""
    interpolation: Interpolation = "bicubic"
    """Evaluation: interpolation of the resized picture."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Subtracted per channel from pixels in [0, 1], on the device."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Divided by per channel, on the device."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input."""
        return (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size

    @model_validator(mode="after")
    def _check(self) -> Self:
        if min(self.size) < 1:
            raise ValueError(f"img_size {self.img_size} must be positive")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive in every channel")
        return self


class PictureAugmentOptions(AugmentOptions):
    """Augmentation of single training pictures; the default is a random crop and a flip."""

    scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of a picture's area that a random crop takes."""
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Chance of a left-right flip; 0 where left and right are classes, as with digits."""


class TokenLabelOptions(Options):
    """Training with a target for every patch (LV-ViT)."""

    folder: str
    """Folder with one file per training picture, under the picture's own relative folder and name but for the suffix."""
    suffix: str = Field(default=".pt", pattern=r"^\.\w+$")
    axis_order: AxisOrder = "corrected"
    """official: the published code's mistake, which takes the labels from the transposed place; for comparison only."""
    covers: Covers = "picture"
    """Part of a picture that its map shows. The published generator showed the network the central square alone, while
    training takes the map for the whole picture (`picture`); `centre_square` puts the crop where it belongs."""
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Smoothing of the token labels; the model's own label smoothing does not apply to them."""
    cls_weight: float = Field(default=1.0, ge=0)
    dense_weight: float = Field(default=1.0, ge=0)
    """Weight of the patches' loss. The released recipe uses 1."""
    ground_truth: bool = False
    """Correct the class token's target by the picture's label."""


class PictureOptions(Options):
    """The data section of an image run."""

    source: PictureSourceOptions = PictureSourceOptions()
    pixels: PicturePixelOptions = PicturePixelOptions()
    augment: PictureAugmentOptions = PictureAugmentOptions()
    mix: MixOptions = MixOptions()
    token_labels: TokenLabelOptions | None = None
    """Stored targets for every patch (LV-ViT); null: none."""
    loading: LoadingOptions = LoadingOptions()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.token_labels is None:
            return self
        if self.mix.mixes:
            raise ValueError(
                "mix changes pictures and labels but not the label maps of token_labels; set mix.mixup and mix.cutmix "
                "to 0 (LV-ViT mixes tokens inside the model instead)"
            )
        policy = self.augment.auto_augment
        # Imported here, as in the options of augmentation.
        from revit.image.data.transforms import can_be_followed

        if policy is not None and not can_be_followed(policy):
            raise ValueError(
                f"augment.auto_augment {policy!r} moves pictures in ways that label maps cannot follow; with "
                "token_labels use a RandAugment policy such as rand-m9-mstd0.5-inc1"
            )
        return self
