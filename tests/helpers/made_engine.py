"""A small classifier of made inputs, for tests of the engine."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from revit.common.data.broken import BrokenSample
from revit.common.data.reader import Views
from revit.common.methods.revit.adaptive import AdaptiveClassifier, TokenLengthAssigner
from revit.common.modality.modality import Classifier
from revit.common.models.base import Normalizer
from revit.video.models.timesformer import TimeSformer

SHAPE = (3, 2, 16, 16)
NAMES = tuple("abcde")


def pixels_of(path: str, num_views: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(int(path))
    return torch.randint(256, (num_views, *SHAPE), generator=generator, dtype=torch.uint8)


class Made:
    """Inputs that are made of their number; every seventh is broken."""

    noun = "clip"
    extensions = (".made",)
    open_now = 0
    alive = 0
    most = 0
    lock = threading.Lock()

    def __init__(self, views: int = 1) -> None:
        self.views = views

    def open(self, views: str, *, num_at_once: int = 1, salvage: bool | None = None) -> Made:
        with Made.lock:
            Made.open_now += 1
        return Made(int(views))

    def read(self, path: str) -> Views:
        if int(path) % 7 == 3:
            raise BrokenSample(path, "it is broken")
        made = pixels_of(path, self.views)
        with Made.lock:
            Made.alive += 1
            Made.most = max(Made.most, Made.alive)
        weakref.finalize(made, Made.gone)
        return Views(made)

    @staticmethod
    def gone() -> None:
        with Made.lock:
            Made.alive -= 1

    def close(self) -> None:
        with Made.lock:
            Made.open_now -= 1


class ByBrightness(nn.Module):
    """Takes the place of an assigner where its time matters."""

    def forward(self, inputs: Tensor) -> Tensor:
        bright = (inputs.flatten(1)[:, :7].mean(1) * 10).long() % 3
        return nn.functional.one_hot(bright, 3).float()


def made_classifier(assigner: nn.Module | None = None, **changes: Any) -> Classifier:
    torch.manual_seed(0)
    model = TimeSformer(
        img_size=16,
        grids=(4, 2, 1),
        num_frames=2,
        num_classes=len(NAMES),
        embed_dim=16,
        depth=1,
        num_heads=2,
        linear_std=0.3,
        pos_std=0.5,
    )
    if assigner is None:
        assigner = TokenLengthAssigner(3, size=32, width=0.25)
        nn.init.normal_(assigner.net.classifier.weight, std=4.0)  # type: ignore[arg-type]
        nn.init.normal_(assigner.net.conv_stem.weight)  # type: ignore[arg-type]
    networks = AdaptiveClassifier(model, assigner).eval()
    settings: dict[str, Any] = {"label_names": NAMES} | changes
    return Classifier(networks, Made(), Normalizer((0.5,) * 3, (0.3,) * 3), (1, *SHAPE), **settings)  # type: ignore[arg-type]


PLAIN: dict[str, Any] = {"device": "cpu", "dtype": "float32", "compile": "eager"}


def expected_of(classifier: Classifier, path: str, views: int = 1) -> tuple[list[int], Tensor]:
    """Grid positions and probabilities by the plain networks, this input alone."""
    with torch.no_grad():
        output = classifier.networks(classifier.normalizer(pixels_of(path, views)))
    return output.grid_index.tolist(), output.prediction.mean(0).softmax(0)
