"""As-ViT under a detector: names, strides and sizes of its maps, and torchvision's feature pyramid on top."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from revit.image.models.asvit import AsViT, AsViTFeatures

SMALL = "6,2,2|3,2,2|2,1,2|3,1,2|8,8"


@pytest.mark.parametrize("sides", [(64, 64), (96, 64), (70, 101), (33, 47)])
@pytest.mark.parametrize("norms", [False, True])
def test_maps_have_names_channels_and_strides(sides, norms):
    features = AsViTFeatures(AsViT(SMALL, 64), norms=norms)
    maps = features(torch.randn(2, 3, *sides))
    assert list(maps) == ["0", "1", "2", "3"]
    assert features.channels == [8, 16, 32, 64]
    for map_, channels, stride in zip(maps.values(), features.channels, features.strides):
        assert map_.shape == (2, channels, -(-sides[0] // stride), -(-sides[1] // stride))


def test_maps_are_those_of_the_classifier():
    model = AsViT(SMALL, 64).eval()
    images = torch.randn(2, 3, 64, 64)
    last = model(images).patch_features
    norm = model.norm
    maps = AsViTFeatures(model)(images)
    assert torch.equal(norm(maps["3"].flatten(2).transpose(1, 2)), last)


def test_every_parameter_gets_a_gradient():
    """None is left over for a distributed run to wait for."""
    features = AsViTFeatures(AsViT(SMALL, 64), norms=True)
    sum(map_.square().sum() for map_ in features(torch.randn(1, 3, 64, 64)).values()).backward()
    assert all(parameter.grad is not None for parameter in features.parameters())


def test_maps_are_chosen():
    features = AsViTFeatures(AsViT(SMALL, 64), maps=(1, 3))
    assert list(features(torch.randn(1, 3, 64, 64))) == ["1", "3"]
    assert (features.channels, features.strides) == ([16, 64], [8, 32])
    for wrong in ((), (3, 1), (1, 1), (4,)):
        with pytest.raises(ValueError, match="0 to 3"):
            AsViTFeatures(AsViT(SMALL, 64), maps=wrong)


class Pyramid(nn.Module):
    """torchvision's pyramid on our maps, as its detectors take it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = AsViTFeatures(AsViT(SMALL, 64), norms=True)
        self.fpn = FeaturePyramidNetwork(self.body.channels, 16, extra_blocks=LastLevelMaxPool())
        self.out_channels = 16

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.fpn(self.body(images))


def test_a_feature_pyramid_takes_them():
    maps = Pyramid()(torch.randn(1, 3, 90, 123))
    assert list(maps) == ["0", "1", "2", "3", "pool"]
    assert [tuple(map_.shape[-2:]) for map_ in maps.values()][:4] == [(23, 31), (12, 16), (6, 8), (3, 4)]
    assert {map_.shape[1] for map_ in maps.values()} == {16}


def test_a_detector_trains_on_them():
    anchors = AnchorGenerator(((16,), (32,), (64,), (128,), (256,)), ((1.0,),) * 5)
    detector = FasterRCNN(
        Pyramid(), 3, rpn_anchor_generator=anchors, min_size=90, max_size=130, box_detections_per_img=5
    )
    boxes = {"boxes": torch.tensor([[10.0, 12.0, 50.0, 60.0]]), "labels": torch.tensor([1])}
    losses = detector([torch.rand(3, 90, 123)], [boxes])
    sum(losses.values()).backward()
    assert detector.backbone.body.body.patch_embed.proj.weight.grad.abs().sum() > 0
    with torch.no_grad():
        (found,) = detector.eval()([torch.rand(3, 77, 101)])
    assert found["boxes"].shape[1] == 4
