"""A trained classifier that teaches another model, whatever pixels it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from revit.common.modality.classifier import Classifier
from revit.common.modality.load import check_same_classes
from revit.common.models.base import ModelOutput, Normalizer
from revit.common.models.embed.patches import Sides, sides_of


class Teacher(nn.Module):
    """Is shown inputs that were normalised, and sized, for another network, and answers with logits alone."""

    def __init__(self, network: nn.Module, own: Normalizer, given: Normalizer, sides: Sides | None = None) -> None:
        """`own`: the normalisation it was trained with; `given`: that of the inputs it will see. `sides`: its own picture
        size, to which inputs are resized (bicubic, antialiased when shrinking); None: shown as they are."""
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.own = own
        self.given = given
        self.sides = sides

    def forward(self, inputs: Tensor) -> Tensor:
        """Answer (B, C, H, W) or (B, C, T, H, W), normalised as `given` says, with logits (B, K)."""
        # Per channel, whatever axes follow.
        channels = (-1, *[1] * (inputs.ndim - 2))
        pixels = (inputs - self.given.shift.view(channels)) / self.given.scale.view(channels)
        pixels = pixels if self.sides is None else resized(pixels, self.sides)
        output: Any = self.network(self.own(pixels))
        return output.prediction if isinstance(output, ModelOutput) else output

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode."""
        return super().train(False)


def resized(pixels: Tensor, sides: Sides) -> Tensor:
    """Resize (B, C, ..., H, W) to (B, C, ..., *sides), frame by frame."""
    if tuple(pixels.shape[-2:]) == sides:
        return pixels
    frames = F.interpolate(pixels.flatten(1, -3), size=sides, mode="bicubic", antialias=True)
    return frames.unflatten(1, pixels.shape[1:-2])


def teacher_from(
    classifier: Classifier, source: str, label_names: Sequence[str], given: Normalizer, own_size: bool
) -> Teacher:
    """Make a teacher of a classifier that was opened from `source`. UserError if it knows other classes than `label_names`."""
    names = classifier.label_names or tuple(map(str, range(classifier.num_classes)))
    check_same_classes(source, names, label_names)
    network = classifier.networks.model
    sides = sides_of(cast(Any, network).img_size) if own_size else None
    return Teacher(network, cast(Normalizer, classifier.normalizer), given, sides)
