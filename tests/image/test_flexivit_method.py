"""FlexiViT as a method of a run: what it draws, what it learns from, where it starts, and what it does not go with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from revit.common.data.batch import Batch
from revit.common.methods.base import start_of, task_of
from revit.common.methods.flexivit import FlexiTask, FlexiViTOptions, OneLength, Stage, grid_at
from revit.common.methods.revit.task import ResizableTask, SelfDistillation, divergence
from revit.common.methods.task import Progress
from revit.common.models.grid import TokenGrid
from revit.common.system.errors import UserError
from revit.common.weights.checkpoint import Checkpoint, save_checkpoint
from revit.image.modality import ImageModality
from revit.image.options import ImageRun
from revit.video.options import VideoRun

MODEL = {"name": "deit_small", "embed_dim": 32, "depth": 1, "num_heads": 2, "drop_path_rate": 0}
SMALL = {"grids": [6, 4, 3], "kernel_size": 8, "position_grid": 6}


def settings(flexivit: Any = None, **changes: Any) -> dict[str, Any]:
    made = {
        "kind": "image",
        "data": {"demo": {"train_pictures": 4}, "pixels": {"img_size": 48}},
        "model": MODEL,
        "methods": {"flexivit": flexivit},
        "run": {"dir": "x", "seed": 5},
    }
    return {**made, **changes}


def run(flexivit: Any = None, **changes: Any) -> ImageRun:
    return ImageRun.model_validate(settings(SMALL if flexivit is None else flexivit, **changes))


def batch() -> tuple[torch.Tensor, Batch]:
    targets = torch.tensor([1, 2, 3])
    images = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(3))
    return images, Batch(torch.empty(0, dtype=torch.uint8), targets, targets)


@pytest.mark.parametrize("kind", [ImageRun, VideoRun])
def test_one_key_makes_a_configuration_flexible(kind):
    name = "image" if kind is ImageRun else "video"
    options = kind.model_validate({"kind": name, "data": {}, "methods": {"flexivit": None}, "run": {"dir": "x"}})
    assert [grid.rows for grid in options.grids] == [30, 24, 20, 16, 15, 12, 10, 8, 6, 5]
    arguments = options.active_methods[0].model_arguments(options)
    assert (arguments["kernel_size"], arguments["position_grid"]) == (32, "7x7")
    assert not options.has_lengths
    wanting = {"kind": name, "data": {}, "methods": {"flexivit": {"assigner": True}}, "run": {"dir": "x"}}
    assert kind.model_validate(wanting).has_lengths


def test_each_update_runs_at_one_size_with_the_ordinary_loss():
    options = run(label_smoothing=0.1)
    modality = ImageModality()
    model = modality.build_model(options, 10).eval()
    task = task_of(options, modality.task(options), modality, model)
    images, some = batch()
    seen = set()
    for update in range(8):
        names = []
        for _ in range(2):  # the batches of one update
            task.begin(Progress(update, update / 8))
            for name, loss in task.losses(model, images, some):
                logits = model(images, TokenGrid.parse(name)).logits
                expected = F.cross_entropy(logits, some.targets, label_smoothing=0.1)
                torch.testing.assert_close(loss, expected)
                names.append(name)
        assert names[0] == names[1]
        seen.add(names[0])
    assert seen == {"6x6", "4x4", "3x3"}


def test_seed_of_the_draws_is_the_runs_or_its_own():
    def drawn(options: ImageRun) -> list[int]:
        modality = ImageModality()
        model = modality.build_model(options, 10)
        task = task_of(options, modality.task(options), modality, model)
        assert isinstance(task, FlexiTask)
        return [grid_at(task.stages, task.seed, update, 0).rows for update in range(30)]

    assert drawn(run()) == drawn(run({**SMALL, "seed": 5})) != drawn(run({**SMALL, "seed": 6}))


def test_one_size_with_its_own_kernel_is_the_plain_run():
    """Loss and gradients of the plain model, whose class row of the positions is zero; draws make no difference."""
    options = run({"grids": [6], "kernel_size": 8, "position_grid": 6})
    modality = ImageModality()
    flexible = modality.build_model(options, 10)
    fixed_options = ImageRun.model_validate(settings(methods={}, model={**MODEL, "grids": ["6x6"]}))
    fixed = modality.build_model(fixed_options, 10)
    state = {name: tensor.clone() for name, tensor in flexible.state_dict().items()}
    state["pos_embed"] = F.pad(state["pos_embed"], (0, 0, 1, 0))
    fixed.load_state_dict(state)
    images, some = batch()
    losses = []
    for model, own in ((flexible, options), (fixed, fixed_options)):
        task = task_of(own, modality.task(own), modality, model)
        task.begin(Progress(0, 0.0))
        ((_, loss),) = task.losses(model, images, some)
        loss.backward()
        losses.append(loss)
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=0)
    ours = dict(flexible.named_parameters())
    for name, parameter in fixed.named_parameters():
        wanted = parameter.grad[:, 1:] if name == "pos_embed" else parameter.grad
        torch.testing.assert_close(ours[name].grad, wanted, atol=1e-6, rtol=0)


def teacher_file(folder: Path, classes: int = 10) -> str:
    """A checkpoint of a plain DeiT at 6 x 6."""
    options = ImageRun.model_validate(settings(methods={}, model={**MODEL, "grids": ["6x6"], "pos_std": 0.5}))
    model = ImageModality().build_model(options, classes)
    torch.nn.init.normal_(model.head.weight)
    names = [str(number) for number in range(classes)]
    config = options.model_dump(mode="json")
    save_checkpoint(
        folder / "teacher.safetensors", Checkpoint("image", config, names, {"model": model.state_dict()}, {})
    )
    return str(folder / "teacher.safetensors")


def test_a_student_that_starts_as_its_teacher_has_nothing_to_learn_at_that_size(tmp_path):
    teacher = {"source": teacher_file(tmp_path)}
    options = run({**SMALL, "teacher": teacher})
    modality = ImageModality()
    model = modality.build_model(options, 10)
    start = start_of(options)
    assert start.source == teacher["source"]
    modality.start(model, options, start.source)
    task = task_of(options, modality.task(options), modality, model)
    assert isinstance(task, FlexiTask)
    images, some = batch()
    losses = {}
    for update in range(12):
        task.begin(Progress(update, 0.0))
        losses.update(task.losses(model, images, some))
    assert abs(float(losses["6x6"].detach())) < 1e-6
    assert losses["4x4"] > 1e-5
    losses["4x4"].backward()
    assert task.teacher is not None
    assert all(parameter.grad is None for parameter in task.teacher.parameters())


def test_a_start_of_ones_own_goes_before_the_teachers_weights(tmp_path):
    teacher = {"source": teacher_file(tmp_path)}
    own = run({**SMALL, "teacher": teacher}, start={"source": "mine.pth"})
    assert start_of(own).source == "mine.pth"
    assert start_of(run({**SMALL, "teacher": {**teacher, "start": False}})).source is None


def test_divergence_by_formula_beside_the_labels():
    stages = [Stage(1.0, (TokenGrid(3, 3),), (1,))]
    logits, taught = torch.randn(2, 3, 5, dtype=torch.float64)
    p, q = (taught / 2).softmax(1), (logits / 2).softmax(1)
    expected = 4 * (p * (p.log() - q.log())).sum(1).mean()
    found = divergence(logits, taught, 2.0)
    torch.testing.assert_close(found, expected)

    model = ImageModality().build_model(run(), 10)
    images, some = batch()
    teacher = copy.deepcopy(model)
    ordinary = ResizableTask(SelfDistillation(label_smoothing=0.1))

    class Logits(torch.nn.Module):
        def forward(self, inputs):
            return teacher(inputs, TokenGrid(6, 6)).logits

    task = FlexiTask(ordinary, stages, 0, Logits(), label_weight=0.5)
    task.begin(Progress(0, 0.0))
    ((name, loss),) = task.losses(model, images, some)
    logits = model(images, TokenGrid(3, 3)).logits
    labels = F.cross_entropy(logits, some.targets, label_smoothing=0.1)
    expected = 0.5 * labels + divergence(logits, teacher(images, TokenGrid(6, 6)).logits)
    assert name == "3x3"
    torch.testing.assert_close(loss, expected)


def test_the_teacher_sees_its_own_resolution(tmp_path):
    file = teacher_file(tmp_path)
    options = run(data={"demo": {"train_pictures": 4}, "pixels": {"img_size": 36, "mean": [0.1] * 3, "std": [0.2] * 3}})
    teacher = ImageModality().teacher(options, file, "key")
    seen = []
    teacher.network.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    grey = torch.full((1, 3, 36, 36), (0.5 - 0.1) / 0.2)
    assert teacher(grey).shape == (1, 10)
    assert seen[0].shape == (1, 3, 48, 48)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0][0, :, 7, 7], (0.5 - mean) / std, atol=1e-5, rtol=0)


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    options = run({**SMALL, "teacher": {"source": teacher_file(tmp_path, classes=7)}})
    modality = ImageModality()
    with pytest.raises(UserError, match=r"\b7 .* 10\b"):
        task_of(options, modality.task(options), modality, modality.build_model(options, 10))


def test_a_curriculum_ends_at_one_size():
    options = FlexiViTOptions(
        grids=(6, 4, 3),
        curriculum=[{"share": 0.25, "weights": {3: 1}}, {"share": 0.5}, {"share": 0.25, "weights": {"6x6": 2}}],  # type: ignore[arg-type]
    )
    stages = options.stages()
    early, middle, late = (
        {grid_at(stages, 0, update, fraction).rows for update in range(60)} for fraction in (0.2, 0.6, 0.9)
    )
    assert (early, middle, late) == ({3}, {6, 4, 3}, {6})


@pytest.mark.parametrize(
    ("flexivit", "message"),
    [
        ({"grids": [3, 6]}, "from the longest to the shortest"),
        ({"grids": [6, 3], "weights": {4: 1}}, "4x4, which are not among the grids 6x6, 3x3"),
        ({"grids": [6, 3], "weights": {6: 0}}, "all weights are 0"),
        ({"curriculum": [{"share": 0.5}, {"share": 0.2}]}, "add up to 0.7, not to 1"),
        ({"weights": {15: 1}, "curriculum": [{"share": 1}]}, "leave one out"),
        ({"kernel_size": 0}, "give at least 1"),
        ({"kernel": 16}, "[Ee]xtra"),
    ],
)
def test_what_cannot_be_drawn_is_refused(flexivit, message):
    with pytest.raises(ValidationError, match=message):
        run(flexivit)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "lvvit_s"}}, "choose a DeiT, or set model.patch_embed patchify"),
        ({"model": {"patch_embed": "stem", "stem_widths": [8, 8]}}, "patch embedding by stem"),
        ({"model": {"name": "deit_small_distilled"}}, "no distillation token"),
        ({"model": {"grids": [6, 3]}}, "its own are methods.flexivit.grids"),
        ({"model": {"positions": "shared_interpolate"}}, "position table of its own"),
        ({"parallel": {"backend": "replicas"}}, "choose auto"),
    ],
)
def test_what_it_does_not_go_with(changes, message):
    with pytest.raises(ValidationError, match=message):
        run(**changes)


def test_more_tokens_than_pixels_is_one_message():
    with pytest.raises(UserError, match=r"48x48 .* 64x64"):
        ImageModality().build_model(run({"grids": [64, 6]}), 10)


@pytest.mark.parametrize("names", [("flexivit", "toe"), ("toe", "flexivit")])
def test_token_expansion_merges_tokens_of_every_size(names):
    """Half of them at the beginning, all at the end; each update still has one size."""
    methods = {name: SMALL if name == "flexivit" else None for name in names}
    options = ImageRun.model_validate(settings(methods=methods, model={**MODEL, "depth": 3}))
    modality = ImageModality()
    model = modality.build_model(options, 10).train()
    task = task_of(options, modality.task(options), modality, model)
    images, some = batch()
    lengths: list[int] = []
    model.blocks[2].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1] - 1))
    for update, share in ((0, 0.5), (1, 0.5), (8, 1.0)):
        task.begin(Progress(update, update / 9, (update + 1) / 9))
        ((name, _),) = task.losses(model, images, some)
        assert lengths[-1] == int(TokenGrid.parse(name).num_positions * share)


def test_a_task_that_names_no_grid_runs_at_the_one_of_the_update():
    model = ImageModality().build_model(run(), 10).eval()
    images, _ = batch()
    one = OneLength(model, TokenGrid(4, 4))
    assert torch.equal(one(images).logits, model(images, TokenGrid(4, 4)).logits)
    assert one.num_classes == 10
