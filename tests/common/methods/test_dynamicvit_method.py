"""What DynamicViT makes of a run: its checks, its groups, its teacher, its losses; and weights of other programs."""

from __future__ import annotations

from pathlib import Path

import predict
import pytest
import test_net as tool_test_net
import torch
from modalities import load_run
from torch import Tensor

from revit.common.data.batch import Batch
from revit.common.methods.base import optim_of, task_of
from revit.common.methods.dynamicvit.method import DynamicViTTask, ratio_loss, token_divergence, token_error
from revit.common.methods.revit.task import SelfDistillation, divergence
from revit.common.system.errors import UserError
from revit.common.training.optim import parameter_groups
from revit.image.modality import open_classifier
from revit.image.models.transformers import DeiT
from revit.video.models.timesformer import TimeSformer

IMAGE = """
kind: image
data:
  demo: {train_pictures: 32, val_pictures: 20, test_pictures: 20, num_workers: 1}
  pixels: {img_size: 48, crop_pct: 1.0}
  loading: {num_workers: 0}
model: {name: deit_small, grids: [6x6], embed_dim: 32, depth: 4, num_heads: 2}
methods: {dynamicvit: {}}
train: {batch_size: 16, optim: {name: adamw, lr: 1e-3}, schedule: {name: cosine, epochs: 6}}
run: {dir: RUN}
"""
VIDEO = """
kind: video
data:
  demo: {train_clips: 16, val_clips: 8, test_clips: 8}
  frames: {num_frames: 2}
  pixels: {crop_size: 32, jitter_min: 32, jitter_max: 32}
model: {grids: [4x4], embed_dim: 16, depth: 4, num_heads: 2, attention: ATTENTION, pos_std: 0.5, linear_std: 0.3}
methods: {dynamicvit: {}}
run: {dir: RUN}
"""


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(IMAGE.replace("RUN", str(tmp_path / "run")))
    return path


def build(config: Path, *overrides: str):
    """Options, package and untrained model."""
    options, modality = load_run(str(config), list(overrides))
    torch.manual_seed(0)
    return options, modality, modality.build_model(options, 10)


def plain_weights(config: Path, *overrides: str) -> Path:
    """A file as DeiT's training script leaves one."""
    model = build(config, "methods={}", *overrides)[2]
    path = config.parent / "deit.pth"
    torch.save({"model": model.state_dict(), "epoch": 3}, path)
    return path


def published_weights(config: Path, *overrides: str) -> tuple[Path, DeiT]:
    """A file with the names of the authors of DynamicViT, and the model it is of."""
    model = build(config, *overrides)[2]
    for predictor in model.reducer.score_predictor:
        torch.nn.init.normal_(predictor.out_conv[4].weight)  # clear decisions
    names = {name: name.removeprefix("reducer.") for name in model.state_dict()}
    path = config.parent / "dynamicvit.pth"
    torch.save({"model": {names[name]: tensor for name, tensor in model.state_dict().items()}}, path)
    return path, model.eval()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("model.grids=[6x6,3x3]", "drops tokens of one grid, and the model has 6x6, 3x3"),
        ("methods.dynamicvit.teacher=start", "and there is none"),
        ("methods.dynamicvit.frozen_epochs=2", "frozen_epochs: of a trained model"),
        ("start.source=a.pth train.schedule.epochs=5", "frozen_epochs 5 leaves nothing of 5 epochs"),
        ("methods.dynamicvit.keep_rate=1.5", "less than or equal to 1"),
        ("methods.dynamicvit.keep_rate=[0.5,0.7]", "later stages keep no more"),
        ("methods.dynamicvit.before_blocks=[2,1]", "no blocks in rising order"),
        ("methods.dynamicvit={keep_rate: [0.5, 0.4], before_blocks: [2]}", "2 entries for 1 stages"),
    ],
)
def test_contradictions_are_told(config, override, text):
    with pytest.raises(UserError, match="methods") as told:
        load_run(str(config), override.split(" ") if "start.source" in override else [override])
    assert text in str(told.value)


def test_lvvit_is_trained_without_token_labels(config):
    with pytest.raises(UserError, match=r"leave out data\.token_labels"):
        load_run(str(config), ["model.name=lvvit_s", "data.token_labels.folder=labels"])


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("methods.dynamicvit.before_blocks=[1,4]", "not all blocks of a model of depth 4"),
        ("model.depth=1", "of depth 1"),
        ("methods.dynamicvit.keep_rate=[0.5,0.4]", "2 entries for 3 stages"),
    ],
)
def test_stages_that_the_model_has_not_are_told(config, override, text):
    with pytest.raises(UserError, match=text):
        build(config, override)


def test_a_list_of_rates_and_of_blocks(config):
    model = build(config, "methods.dynamicvit={keep_rate: [0.6, 0.2], before_blocks: [2, 3]}")[2]
    assert model.eval()(torch.randn(1, 3, 48, 48)).reduction.kept[-1].shape == (1, 7)


def scales(options, model) -> dict[str, tuple[float, float]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    optim = optim_of(options)
    return {
        names[parameter]: (group["lr_scale"], group["frozen_epochs"])
        for group in (parameter_groups(model, optim) if optim.groups else [])
        for parameter in group["params"]
    }


def test_the_published_schedule_where_there_is_a_start(config):
    options, _, model = build(config, "start.source=deit.pth")
    found = scales(options, model)
    assert found["reducer.score_predictor.2.in_conv.0.weight"] == (1, 0)
    assert found["cls_token"] == found["pos_embed"] == (0, 0)
    assert found["blocks.0.attn.qkv.weight"] == found["head.bias"] == (0.01, 5)
    options, _, model = build(config, "start.source=deit.pth", "methods.dynamicvit.train_tokens=true")
    assert scales(options, model)["pos_embed"] == (0.01, 5)


def test_from_scratch_everything_is_trained_alike_and_own_groups_go_first(config):
    options, _, model = build(config)
    assert scales(options, model) == {}
    own = "train.optim.groups=[{match: head, lr_scale: 3}]"
    options, _, model = build(config, "start.source=deit.pth", own)
    assert scales(options, model)["blocks.0.attn.qkv.weight"] == (1, 0)


# -- weights -------------------------------------------------------------------------------------------------------------


def test_published_weights_start_the_model_and_say_what_became_of_them(config):
    path, theirs = published_weights(config)
    options, modality, model = build(config)
    report = modality.start(model, options, str(path))
    assert report.remade == []
    assert report.left_out == {}
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_plain_weights_start_the_backbone_and_the_predictors_are_new(config):
    options, modality, model = build(config)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    source = plain_weights(config)
    torch.manual_seed(1)
    torch.save({"model": {k: torch.randn_like(v) for k, v in torch.load(source)["model"].items()}}, source)
    report = modality.start(model, options, str(source))
    assert "reducer: the source has none; 30 tensors keep their own random start" in str(report)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, fresh[name]) == name.startswith("reducer."), name


def test_a_plain_model_takes_the_backbone_of_a_published_file(config):
    path, theirs = published_weights(config)
    options, modality, model = build(config, "methods={}")
    report = modality.start(model, options, str(path))
    assert "where this model keeps all of them" in str(report)
    assert torch.equal(model.head.weight, theirs.head.weight)


def test_predict_finds_the_method_in_the_names(config, capsys):
    path, theirs = published_weights(config, "model.embed_dim=64", "model.num_heads=1", "model.depth=12")
    found = open_classifier(str(path))
    assert "DynamicViT with a keep_rate of 0.7" in found.assumed
    pictures = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        answer, wanted = found.networks.model.eval()(pictures), theirs(pictures)
    assert torch.equal(answer.logits, wanted.logits)
    assert [kept.shape[1] for kept in answer.reduction.kept] == [25, 17, 12]
    picture = config.parent / "picture.png"
    from PIL import Image

    Image.new("RGB", (60, 50), (200, 30, 90)).save(picture)
    assert predict.main(["--checkpoint", str(path), str(picture)]) == 0
    assert "keep_rate of 0.7" in " ".join("".join(capsys.readouterr()).split())


def test_test_net_evaluates_a_published_file_and_refuses_untrained_predictors(config, capsys):
    import train_net

    assert train_net.main(["--cfg", str(config), "--stage", "data"]) == 0
    path, _ = published_weights(config)
    assert tool_test_net.main(["--cfg", str(config), "--checkpoint", str(path)]) == 0
    plain = str(plain_weights(config))
    assert tool_test_net.main(["--cfg", str(config), "--checkpoint", plain]) == 2
    assert "would answer at random: reducer" in "".join(capsys.readouterr())


# -- teacher and losses --------------------------------------------------------------------------------------------------


def batch_of(size: int) -> Batch:
    targets = torch.randint(0, 10, (size,))
    return Batch(torch.empty(0), targets, targets)


@pytest.mark.parametrize("name", ["deit_small", "lvvit_s"])
def test_the_teacher_is_the_start_with_all_tokens(config, name):
    sizes = [f"model.name={name}", "model.embed_dim=32", "model.depth=4"]
    source = plain_weights(config, *sizes)
    options, modality, model = build(config, *sizes, f"start.source={source}")
    modality.start(model, options, str(source))
    before = torch.get_rng_state()
    task = task_of(options, modality.task(options), modality, model)
    assert torch.equal(before, torch.get_rng_state())
    plain = build(config, "methods={}", *sizes)[2].eval()
    pictures, batch = torch.randn(3, 3, 48, 48), batch_of(3)
    taught = task.teacher(pictures)
    assert torch.equal(taught.logits, plain(pictures).logits)
    assert not any(parameter.requires_grad for parameter in task.teacher.parameters())
    assert task.rates == pytest.approx((0.7, 0.49, 0.343))

    # The total from its parts, each computed here.
    model.train()
    torch.manual_seed(3)
    output = model(pictures)
    keep = output.reduction.weights[-1]
    labels = torch.nn.functional.cross_entropy(output.logits, batch.targets)
    term = (
        token_divergence(output.patch_logits, taught.patch_logits, keep)
        if name == "lvvit_s"
        else token_error(output.patch_features, taught.patch_features, keep)
    )
    classes = divergence(output.logits, taught.logits)
    wanted = labels + 2 * ratio_loss(output.reduction.weights, task.rates) + 0.5 * (classes + term)
    torch.manual_seed(3)
    ((name, loss),) = task.losses(model, pictures, batch)
    assert name == "6x6"
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)
    loss.backward()
    assert all(parameter.grad is None for parameter in task.teacher.parameters())
    assert bool(model.reducer.score_predictor[0].in_conv[1].weight.grad.any())


def test_a_start_without_these_classes_cannot_teach(config):
    path = plain_weights(config)
    state = torch.load(path)["model"]
    torch.save({**state, "head.weight": torch.zeros(7, 32), "head.bias": torch.zeros(7)}, path)
    options, modality, model = build(config, f"start.source={path}")
    with pytest.raises(UserError, match="cannot teach: head: 7 -> 10 classes"):
        task_of(options, modality.task(options), modality, model)
    options, modality, model = build(config, f"start.source={path}", "methods.dynamicvit.teacher=none")
    assert task_of(options, modality.task(options), modality, model).teacher is None


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
def test_clips_start_from_a_plain_timesformer_and_it_teaches(tmp_path, attention):
    config = tmp_path / "clips.yaml"
    config.write_text(VIDEO.replace("RUN", str(tmp_path / "run")).replace("ATTENTION", attention))
    options, modality = load_run(str(config), ["methods={}"])
    plain = modality.build_model(options, len(modality.label_names(options)))
    torch.save({"model_state": plain.state_dict()}, tmp_path / "timesformer.pyth")
    source = tmp_path / "timesformer.pyth"
    options, modality = load_run(str(config), [f"start.source={source}"])
    model = modality.build_model(options, len(modality.label_names(options)))
    assert isinstance(model, TimeSformer)
    modality.start(model, options, str(source))
    task = task_of(options, modality.task(options), modality, model)
    model.train()
    clips = torch.randn(2, 3, 2, 32, 32)
    targets = torch.tensor([0, 1])
    ((_, loss),) = task.losses(model, clips, Batch(torch.empty(0), targets, targets))
    assert set(task.parts) == {"labels", "ratio", "classes", "tokens"}
    loss.backward()
    assert all(bool(parameter.grad.any()) for parameter in model.reducer.parameters())


def test_a_position_of_a_clip_counts_in_all_its_frames():
    """The token term over frames, written out."""
    from revit.common.models.base import ModelOutput

    features, taught = torch.randn(2, 6, 4), torch.randn(2, 6, 4)  # 3 positions of 2 frames
    keep = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    logits = torch.zeros(2, 3)

    def output(tokens: Tensor) -> ModelOutput:
        return ModelOutput(logits, patch_features=tokens)

    found = DynamicViTTask(SelfDistillation(), (0.7,)).token_term(output(features), output(taught), keep)
    kept = [(0, 0), (0, 1), (0, 4), (0, 5), (1, 4), (1, 5)]
    wanted = sum(float((features[b, n] - taught[b, n]).square().mean()) for b, n in kept) / len(kept)
    assert float(found) == pytest.approx(wanted, rel=1e-5)
