from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from revit.common.config.load import load
from revit.common.modality.load import check_same_classes, fill_classifier, trained_otherwise
from revit.common.system.errors import UserError
from revit.common.weights.checkpoint import Checkpoint, save_checkpoint
from revit.common.weights.start import check_architecture
from revit.image.demo import DIGITS
from revit.image.modality import ImageModality, open_classifier
from revit.image.models.transformers import DeiT
from revit.image.options import ImageRun

ROOT = Path(__file__).parents[3]

NUMBERS = ["0", "1", "2"]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(["a", "b"], ["a", "b"]), (NUMBERS, NUMBERS), (["a", "b", "c"], NUMBERS), (["a", "b", "c"], NUMBERS[:2])],
)
def test_equal_classes_pass(theirs, ours):
    check_same_classes("file", theirs, ours)


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        (["a", "b"], ["b", "a"], "class 0 is 'a' there and 'b' here"),
        (["a", "b"], ["a"], "class 1 is 'b' there and 'nothing' here"),
        (NUMBERS, ["a", "b"], "knows 3 classes, the data has 2"),
        (["a"], NUMBERS, "knows 1 classes, the data has 3"),
    ],
)
def test_other_classes_or_another_order_are_refused(theirs, ours, message):
    with pytest.raises(UserError, match=message):
        check_same_classes("file", theirs, ours)


TOE = ROOT / "configs" / "image" / "demos" / "toe.yaml"


def checkpoint_of(options: ImageRun, **parts: dict[str, torch.Tensor]) -> Checkpoint:
    return Checkpoint("image", options.model_dump(mode="json"), DIGITS, parts)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], ""),
        (["model.linear_std=0.5", "model.drop_path_rate=0.5", "train.batch_size=3"], ""),
        (["methods={dynamicvit: {}}"], "with methods dynamicvit, the configuration has methods toe"),
        (["methods={}"], "with no methods, the configuration has methods toe"),
        (["methods.toe.first_rate=0.25"], "with methods.toe.first_rate 0.25, the configuration has .* 0.5"),
        (
            ["model.name=deit_tiny", "model.depth=6", "model.grids=[6x6, 3x3]"],
            "with model.name deit_tiny, model.grids 6x6, 3x3, model.depth 6, the configuration has model.name "
            "deit_small, model.grids 6x6, model.depth 4",
        ),
        (["data.pixels.img_size=96"], "with data.pixels.img_size 96, the configuration has data.pixels.img_size 48"),
        (
            ["model.depth=6", "model.embed_dim=32", "model.num_heads=2", "model.mlp_ratio=2", "model.grids=[6x6, 3x3]"],
            r".* \(and 1 more settings\)",
        ),
    ],
)
def test_what_a_checkpoint_was_trained_with_otherwise(overrides, said):
    checkpoint = checkpoint_of(load(ImageRun, TOE, overrides))
    assert re.fullmatch(said, trained_otherwise(checkpoint, load(ImageRun, TOE), "model"))


def test_another_assigner_is_named():
    checkpoint = checkpoint_of(load(ImageRun, TOE, ["assigner.width=0.25"]))
    said = trained_otherwise(checkpoint, load(ImageRun, TOE), "assigner")
    assert said.startswith("with assigner.width 0.25, the configuration has assigner.width ")


def test_a_checkpoint_of_another_method_says_so_first():
    """In one line: the file, both methods, and few of the tensors."""
    theirs, ours = load(ImageRun, TOE, ["methods={dynamicvit: {}}"]), load(ImageRun, TOE)
    modality = ImageModality()
    checkpoint = checkpoint_of(theirs, model=dict(modality.build_model(theirs, 10).state_dict()))
    with pytest.raises(UserError) as caught:
        fill_classifier(checkpoint, "FILE", modality.build_model(ours, 10), ours)
    said = str(caught.value)
    assert said.startswith("FILE was trained with methods dynamicvit, the configuration has methods toe: ")
    assert "tensors without a place there: reducer." in said
    assert len(said) < 500
    assert "\n" not in said


def test_a_header_that_makes_no_model_is_named_with_its_file(tmp_path):
    options = load(ImageRun, TOE)
    checkpoint = checkpoint_of(options, model={"head.weight": torch.zeros(1)})
    both = {**checkpoint.config, "methods": {"toe": {}, "dynamicvit": {}}}
    path = tmp_path / "both.safetensors"
    save_checkpoint(path, replace(checkpoint, config=both))
    with pytest.raises(UserError, match=r"reduces? .*tokens") as caught:
        open_classifier(str(path))
    assert str(caught.value).startswith(f"{path}: ")


def test_heads_that_leave_no_trace_in_the_shapes_are_compared():
    model = DeiT(32, [4], num_classes=3, embed_dim=16, depth=1, num_heads=2)
    check_architecture(model, {"num_heads": 2, "skip_lam": 1.0}, "a.safetensors")
    check_architecture(model, {}, "a.safetensors")
    with pytest.raises(UserError, match="made with num_heads 4, the model has 2"):
        check_architecture(model, {"num_heads": 4}, "a.safetensors")
