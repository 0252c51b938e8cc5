"""What an image configuration becomes: models, tasks, loaders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from revit.common.data.batch import Batch
from revit.common.methods.revit.task import ResizableTask
from revit.common.system.errors import UserError
from revit.image.modality import ImageModality, build_model
from revit.image.models.transformers import DeiT
from revit.image.models.variants import VARIANTS
from revit.image.options import ImageModel, ImageRun
from revit.image.tasks import TokenLabelTask

TINY = {"embed_dim": 16, "depth": 1, "num_heads": 2, "grids": ["4x4", "2x2"]}


def run(folder="x", **sections) -> ImageRun:
    sections.setdefault("data", {"pixels": {"img_size": 64}})
    return ImageRun.model_validate({"kind": "image", "run": {"dir": str(folder)}, **sections})


@pytest.fixture
def pictures(tmp_path):
    """Two classes of four black or white pictures, 64 pixels wide."""
    for name, brightness in (("black", 0), ("white", 255)):
        (tmp_path / name).mkdir()
        for index in range(4):
            pixels = np.full((64, 64, 3), brightness, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "num_params"), [("deit_tiny", 5_717_416), ("lvvit_t", 8_534_720), ("deit_small_distilled", 22_436_432)]
)
def test_what_is_null_is_the_published_models(name, num_params):
    model = build_model(ImageModel(name=name), run(data={}).data, 1000)
    assert isinstance(model, VARIANTS[name].model_class)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_params


@pytest.mark.parametrize("name", VARIANTS)
def test_names_say_the_family(name):
    options = ImageModel(name=name)
    assert options.is_lvvit == name.startswith("lvvit")
    assert options.is_distilled == name.endswith("_distilled")


def test_overrides_and_data_shape_the_model():
    options = run(
        data={"pixels": {"img_size": [64, 96]}},
        model={**TINY, "grids": ["4x6", "2x3"], "patch_embed": "stem", "positions": "shared_zero_pad"},
    )
    modality = ImageModality()
    model = modality.build_model(options, 3)
    assert isinstance(model, DeiT)
    assert modality.input_shape(options) == (1, 3, 64, 96)
    for grid in model.grids:
        assert model.eval()(torch.zeros(1, 3, 64, 96), grid).prediction.shape == (1, 3)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"name": "deit_huge"}}, "no such model; choose from deit_tiny"),
        ({"model": {"skip_lam": 2}}, "skip_lam is for LV-ViT"),
        ({"model": {"stem_widths": [8, 16]}}, "stem_widths is for patch_embed stem"),
        ({"model": {"name": "lvvit_s", "distillation": "every_grid"}}, "every_grid is DeiT's"),
        ({"data": {"token_labels": {"folder": "maps"}}}, "token_labels is for LV-ViT"),
        ({"assigner": {"num_frames": 2}}, "a picture has one frame"),
        ({"data": {"demo": {}, "source": {"train": "list.csv"}}}, "demo makes its own lists"),
    ],
)
def test_contradictions_are_refused(sections, message):
    with pytest.raises(ValidationError, match=message):
        run(**sections)


def test_what_the_model_cannot_be_is_the_users_mistake():
    with pytest.raises(UserError, match="model: "):
        ImageModality().build_model(run(model={**TINY, "embed_dim": 15}), 3)


def test_each_family_has_its_losses():
    modality = ImageModality()
    deit = modality.task(run(label_smoothing=0.1, distill={"weight": 0.5, "temperature": 2}))
    assert isinstance(deit, ResizableTask)
    assert (deit.distill.weight, deit.distill.temperature, deit.distill.label_smoothing) == (0.5, 2, 0.1)
    labels = {"folder": "maps", "dense_weight": 0.5}
    lvvit = modality.task(run(data={"token_labels": labels}, model={"name": "lvvit_s", "mix_token": False}))
    assert isinstance(lvvit, TokenLabelTask)
    assert (lvvit.mix_token, lvvit.labels.dense_weight) == (False, 0.5)


def test_a_distilled_model_without_teacher_learns_the_labels_with_both_heads():
    options = run(model={**TINY, "grids": ["4x4"], "distillation": "every_grid"})
    modality = ImageModality()
    model = modality.build_model(options, 3).eval()
    inputs, targets = torch.randn(2, 3, 64, 64), torch.tensor([0, 2])
    batch = Batch(torch.empty(0, dtype=torch.uint8), targets, targets)
    ((_, loss),) = modality.task(options).losses(model, inputs, batch)
    output = model(inputs)
    both = [torch.nn.functional.cross_entropy(head, targets) for head in (output.logits, output.distill_logits)]
    torch.testing.assert_close(loss, sum(both) / 2)


def test_the_assigner_sees_pictures_as_they_are_evaluated(pictures):
    """Training crops of 8 % would show it something else than what its labels were found on."""
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 1, 3))
    for path in pictures.rglob("*.png"):
        Image.fromarray(ramp).save(path)
    augment = {"scale": [0.08, 0.1], "flip_probability": 1.0, "repeats": 2}
    source = {"train": str(pictures)}
    options = run(
        data={
            "source": source,
            "pixels": {"img_size": 64, "crop_pct": 1.0},
            "augment": augment,
            "loading": {"num_workers": 0},
        }
    )
    modality = ImageModality()
    (shown,) = modality.assigner_loader(options, "train", 8)
    assert torch.equal(shown.inputs[0], torch.from_numpy(ramp).permute(2, 0, 1))
    assert sorted(shown.ids.tolist()) == list(range(8))
    (trained,) = modality.train_loader(options, "train", 8)
    assert trained.inputs.float().std(dim=(1, 2, 3)).max() < shown.inputs.float().std()
    assert len(set(trained.ids.tolist())) == 4


def test_classes_come_from_the_list_the_subset_or_the_demo(pictures, tmp_path):
    modality = ImageModality()
    source = {"train": str(pictures), "val": str(pictures)}
    assert modality.label_names(run(data={"source": source})) == ("black", "white")
    one = run(data={"source": {**source, "classes": ["white"]}})
    assert modality.label_names(one) == ("white",)
    assert [name.split("/")[-2] for name in modality.paths(one, "val")] == ["white"] * 4
    assert modality.has_split(one, "val")
    assert not modality.has_split(one, "test")
    with pytest.raises(UserError, match=r"num_classes.* 3.* 2 "):
        modality.label_names(run(data={"source": source}, model={"num_classes": 3}))
    demo = run(tmp_path / "run", data={"demo": {}})
    assert modality.label_names(demo) == tuple(str(number) for number in range(10))
    with pytest.raises(UserError, match="run the stage 'data' first"):
        modality.paths(demo, "train")
