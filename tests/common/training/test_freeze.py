"""Parameters that are not trained at all, and early layers that learn more slowly."""

from __future__ import annotations

import pytest
import torch
from noted_training import Noted, run, same
from torch import nn

from revit.common.config.sections import GroupOptions, OptimOptions, TrainOptions
from revit.common.methods.run_options import AssignerOptions
from revit.common.modality.load import build_assigner
from revit.common.system.errors import UserError
from revit.common.training.optim import build_optimizer, freeze, layer_scales
from revit.image.models.asvit import AsViT
from revit.image.models.transformers import DeiT, LVViT
from revit.video.models.timesformer import TimeSformer

MODELS = {
    "deit": lambda: DeiT(32, ["4x4", "2x2"], 3, 16, 2, 2),
    "lvvit": lambda: LVViT(32, ["4x4"], 3, 16, 2, 2, patch_embed="patchify"),
    "timesformer": lambda: TimeSformer(32, ["4x4", "2x2"], 2, 3, 16, 2, 2),
    "asvit": lambda: AsViT("6,2,2|3,2,2|2,1,2,2|3,1,2|8,8", 32, num_classes=3),
}


def two_layers(trained: bool = True) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def test_what_is_frozen_stays_and_the_rest_learns_as_with_a_rate_of_0(tmp_path):
    """Two routes: no gradients, or a learning rate of 0. Running statistics are weights too, and stay in one of them alone."""
    network, before = two_layers(), two_layers().state_dict()
    frozen = run(tmp_path / "frozen", network=network, train={"freeze": ["0", r"1\."]})
    assert all(torch.equal(frozen[name], before[name]) for name in before if name[0] in "01")
    assert all(parameter.grad is None for name, parameter in network.named_parameters() if name[0] in "01")
    assert not torch.equal(frozen["2.weight"], before["2.weight"])

    linear = nn.Sequential(nn.Linear(12, 6), nn.Linear(6, 3))
    ends = []
    for number, train in enumerate(({"freeze": ["0"]}, {"optim": slow(0)})):
        ends.append(run(tmp_path / str(number), network=copy_of(linear), train=train))
    assert same(*ends)


def slow(scale: float) -> OptimOptions:
    return OptimOptions(name="adamw", lr=0.01, groups=[GroupOptions(match="0", lr_scale=scale)])


def copy_of(network: nn.Sequential) -> nn.Sequential:
    again = nn.Sequential(nn.Linear(12, 6), nn.Linear(6, 3))
    again.load_state_dict(network.state_dict())
    return again


def test_a_frozen_training_that_was_killed_goes_on_bit_for_bit(tmp_path):
    class Killed(Exception):
        pass

    def kill(now: int) -> None:
        if now == 8:
            raise Killed

    settings = {"train": {"freeze": ["0", "1"]}}
    whole = run(tmp_path / "whole", network=two_layers(), **settings)
    with pytest.raises(Killed):
        run(tmp_path / "killed", Noted(kill), network=two_layers(), **settings)
    assert same(run(tmp_path / "killed", network=two_layers(), **settings), whole)


@pytest.mark.parametrize("name", MODELS)
def test_the_backbone_is_all_but_the_classifiers(name):
    model = MODELS[name]()
    freeze(model, "backbone")
    left = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert left == {"deit": {"head", "head_dist"}, "lvvit": {"head", "aux_head"}, "asvit": {"head"}}.get(
        name, {"head", "head_dist"}
    )
    optimised = {id(one) for group in build_optimizer(model, OptimOptions()).param_groups for one in group["params"]}
    assert optimised == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            ["bloks"],
            r"train.freeze 'bloks': no parameter has a name that begins so; names begin like cls_token, pos_embed",
        ),
        ([""], "nothing is left to train; leave out what is to learn, such as the head"),
    ],
)
def test_what_cannot_be_frozen_is_said(what, said):
    with pytest.raises(UserError, match=said):
        freeze(MODELS["deit"](), what)


def test_networks_of_one_piece_have_no_backbone_and_no_order():
    assigner = build_assigner(AssignerOptions(size=32, width=0.25), 2)
    with pytest.raises(
        UserError, match=r"assigner.train.freeze: TokenLengthAssigner does not say what its classifier is"
    ):
        freeze(assigner, "backbone", "assigner.train")
    with pytest.raises(UserError, match=r"layer_decay 0.5: TokenLengthAssigner has no order of layers"):
        layer_scales(assigner, 0.5)


def test_wrong_expressions_are_refused_with_the_configuration():
    with pytest.raises(ValueError, match="no regular expression"):
        TrainOptions(freeze=["(blocks"])


@pytest.mark.parametrize("name", MODELS)
def test_the_rate_falls_by_one_factor_a_layer(name):
    model = MODELS[name]()
    options = OptimOptions(name="adamw", lr=1.0, layer_decay=0.5, decay_one_dimensional=False)
    groups = build_optimizer(model, options).param_groups
    rates = {id(one): group["lr_scale"] for group in groups for one in group["params"]}
    found = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    depth = len([key for key in found if key.endswith("attn.qkv.weight") and "temporal" not in key])
    assert {scale for key, scale in found.items() if "head" in key} == {1.0}
    assert {scale for key, scale in found.items() if key.startswith("norm")} == {0.5}
    assert {scale for key, scale in found.items() if key.startswith(("patch_embed", "pos_embed"))} == {
        0.5 ** (depth + 1)
    }
    blocks = [scale for key, scale in found.items() if key.endswith("attn.qkv.weight") and "temporal" not in key]
    assert blocks == [0.5 ** (depth - number) for number in range(depth)]
    assert groups[0]["lr_scale"] == 1.0  # what the log shows
    assert not any(group["weight_decay"] for group in groups if group["params"][0].ndim <= 1)


def test_groups_scale_what_the_layers_leave():
    model = MODELS["deit"]()
    options = OptimOptions(layer_decay=0.5, groups=[GroupOptions(match="blocks", lr_scale=0.1)])
    groups = build_optimizer(model, options).param_groups
    rates = {id(one): group["lr_scale"] for group in groups for one in group["params"]}
    assert rates[id(model.blocks[1].attn.qkv.weight)] == pytest.approx(0.05)
    assert rates[id(model.head.weight)] == 1.0
