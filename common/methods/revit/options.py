"""Settings of ReViT: self-distillation, token-length labels, the assigner and the calibration of its thresholds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from revit.common.config.options import Options
from revit.common.config.sections import OptimOptions, ScheduleOptions, TrainOptions


class DistillOptions(Options):
    """Token-length-aware self-distillation (ReViT equation 1)."""

    weight: float = Field(default=0.9, ge=0, le=1)
    """Weight of the teacher's distribution in the loss of the shorter grids (lambda); 0: none."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of both distributions (tau)."""
    hard: bool = False
    """Teacher's most probable class as the target, in place of its distribution."""


class LengthOptions(Options):
    """Token-length labels, read off the trained model."""

    split: Literal["train", "val", "test"] = "train"
    """List whose samples are labelled. The paper takes train; the model has over-fitted it, so a held-out list gives less
    skewed labels."""
    none_correct: Literal["longest", "shortest", "drop"] = "longest"
    """Label of a sample that no grid recognises; drop leaves it out."""


class AssignerOptions(Options):
    """The Token-Length Assigner and its training."""

    size: int = Field(default=112, ge=16)
    """Side of its square input, in pixels."""
    num_frames: int = Field(default=1, ge=1)
    """Frames of a clip that it sees, evenly spread."""
    width: float = Field(default=0.5, gt=0)
    """Channels, as a multiple of EfficientNet-B0's."""
    depth: float = Field(default=0.5, gt=0)
    """Blocks, as a multiple of EfficientNet-B0's."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the features before its head that training drops."""
    balanced: bool = True
    """Weights of the labels in the loss against their frequency."""
    confidence: float | None = Field(default=None, gt=0, lt=1)
    """Least probability that a grid suffices; the shortest such grid is taken. Null: the most probable grid, as in the paper."""
    mirror: bool = True
    """Left-right mirrored inputs in its training: an input needs as many tokens in a mirror, even where its class changes."""
    train: TrainOptions = TrainOptions(
        batch_size=64,
        optim=OptimOptions(name="adamw", lr=1e-3, weight_decay=0.05, decay_one_dimensional=False),
        schedule=ScheduleOptions(name="cosine", epochs=5, warmup_epochs=1),
    )


class CalibrationOptions(Options):
    """Measurement of what the assigner's thresholds cost and gain, so that `model.budget` can choose between them."""

    split: Literal["train", "val", "test"] = "val"
    """List to measure on: like the inputs to come, and new to model and assigner. Without it there is no calibration."""
    points: int = Field(default=41, ge=3, le=1001)
    """Number of operating points, at evenly spaced costs."""
