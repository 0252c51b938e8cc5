"""Cases made up here, answered by a second implementation: what the published cases at hand leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity_cases import Case, filled, write_case
from reference_timesformer import nearest_rows, timesformer
from test_parity import check_case

TINY = {
    "img_size": 32,
    "patch_size": 16,
    "in_chans": 3,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "num_frames": 4,
    "num_classes": 10,
    "attention_type": "divided_space_time",
    "mlp_ratio": 4,
    "qkv_bias": True,
    "layer_norm_eps": 1e-06,
    "act": "gelu (exact erf)",
    "drop_path_rate": 0.1,
    "input_layout": "B,C,T,H,W",
}


def shapes_of(config: dict[str, Any], temporal: bool = True) -> dict[str, list[int]]:
    """Names and shapes of a published state dict; without `temporal`, of an image model."""
    D, patch = config["embed_dim"], config["patch_size"]
    hidden = int(D * config["mlp_ratio"])
    divided = temporal and config["attention_type"] == "divided_space_time"
    grid = (config["img_size"] // patch) ** 2
    shapes: dict[str, list[int]] = {"cls_token": [1, 1, D], "pos_embed": [1, 1 + grid, D]}
    if temporal and config["attention_type"] != "space_only":
        shapes["time_embed"] = [1, config["num_frames"], D]
    shapes["patch_embed.proj.weight"] = [D, config["in_chans"], patch, patch]
    shapes["patch_embed.proj.bias"] = [D]

    def linear(name: str, before: int, after: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = [after, before]
        if bias:
            shapes[f"{name}.bias"] = [after]

    def norm(name: str) -> None:
        shapes.update({f"{name}.weight": [D], f"{name}.bias": [D]})

    for number in range(config["depth"]):
        block = f"blocks.{number}"
        for prefix in ("", "temporal_") if divided else ("",):
            norm(f"{block}.{prefix}norm1")
            linear(f"{block}.{prefix}attn.qkv", D, 3 * D, config["qkv_bias"])
            linear(f"{block}.{prefix}attn.proj", D, D)
        if divided:
            linear(f"{block}.temporal_fc", D, D)
        norm(f"{block}.norm2")
        linear(f"{block}.mlp.fc1", D, hidden)
        linear(f"{block}.mlp.fc2", hidden, D)
    norm("norm")
    if config["num_classes"]:
        linear("head", D, config["num_classes"])
    return shapes


def make_case(
    folder: Path,
    family: str,
    config: dict[str, Any],
    state: dict[str, torch.Tensor],
    input_shape: list[int],
    source: dict[str, list[int]] | None = None,
    **arrays: np.ndarray,
) -> Case:
    patch = config["patch_size"]
    clips = torch.from_numpy(np.random.default_rng(7).standard_normal(input_shape, dtype=np.float32))
    logits = timesformer(state, clips, config["num_heads"], config["attention_type"], (patch, patch))
    facts: dict[str, Any] = {
        "family": family,
        "config": config,
        "input_shape": input_shape,
        "input_seed": 7,
        "state_dict": {name: list(tensor.shape) for name, tensor in state.items()},
        "params": sum(tensor.numel() for tensor in state.values()),
    }
    if source is not None:
        facts["source_state_dict"] = source
    return write_case(folder, facts, logits=logits.numpy(), **arrays)


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
@pytest.mark.parametrize(
    ("changes", "input_shape"),
    [
        ({}, [2, 3, 4, 32, 32]),
        ({"mlp_ratio": 3, "qkv_bias": False, "depth": 1}, [1, 3, 4, 32, 32]),
        ({"in_chans": 1, "num_classes": 0}, [1, 1, 4, 32, 32]),
        ({"patch_size": 8, "num_frames": 6}, [1, 3, 5, 40, 24]),  # resized at run time, not square, other frames
        ({"num_frames": 3}, [1, 3, 8, 56, 70]),  # a remainder that the published code cuts off
        ({"img_size": 70}, [1, 3, 4, 70, 70]),  # a remainder in the model's own size
        ({"img_size": 64}, [1, 3, 4, 32, 128]),  # as many patches in another shape: the table stays as it is
    ],
)
def test_any_config_is_built(tmp_path: Path, attention: str, changes: dict[str, Any], input_shape: list[int]) -> None:
    config = {**TINY, "attention_type": attention, **changes}
    state = filled(shapes_of(config))
    check_case(make_case(tmp_path / "case", "timesformer", config, state, input_shape))


@pytest.mark.parametrize(
    ("source_size", "target_size", "patch"), [(32, 48, 16), (224, 160, 16), (48, 32, 16), (320, 192, 16)]
)
@pytest.mark.parametrize("source_frames", [4, 8, 3])
def test_load_time_resizing(tmp_path: Path, source_size: int, target_size: int, patch: int, source_frames: int) -> None:
    config = {**TINY, "img_size": target_size, "embed_dim": 16, "depth": 1}
    source = shapes_of({**config, "img_size": source_size, "num_frames": source_frames})
    state = filled(source)
    rows = nearest_rows((source_size // patch) ** 2, (target_size // patch) ** 2)
    if (source_size, target_size) == (320, 192):
        # 400 -> 144: float32 rounds 3 of the products below the whole number, in the published code too.
        rows = np.floor(np.arange(144, dtype=np.float32) * np.float32(400 / 144)).astype(int)
        assert (rows != nearest_rows(400, 144)).sum() == 3
    pos_index, time_index = np.array([0, *(1 + rows)]), nearest_rows(source_frames, 4)
    state["pos_embed"], state["time_embed"] = (state["pos_embed"][:, pos_index], state["time_embed"][:, time_index])
    case = make_case(
        tmp_path / "case",
        "timesformer_resized",
        config,
        state,
        [1, 3, 4, target_size, target_size],
        source,
        pos_index=pos_index,
        time_index=time_index,
        pos_embed=state["pos_embed"].numpy(),
    )
    check_case(case)


@pytest.mark.parametrize("family", ["timesformer_resized", "timesformer_from_image"])
def test_another_class_count_and_a_prefix(tmp_path: Path, family: str) -> None:
    source_config = {**TINY, "num_classes": 7, "num_frames": 2}
    is_image = family == "timesformer_from_image"
    source = shapes_of(source_config, temporal=not is_image)
    named = {f"model.{name}": shape for name, shape in source.items()}
    state = {name.removeprefix("model."): tensor for name, tensor in filled(named).items()}
    if is_image:
        for number in range(2):
            block = f"blocks.{number}"
            for name in [name for name in state if name.startswith((f"{block}.attn", f"{block}.norm1"))]:
                state[name.replace(f"{block}.", f"{block}.temporal_")] = state[name]
            state[f"{block}.temporal_fc.weight"], state[f"{block}.temporal_fc.bias"] = (
                torch.zeros(32, 32),
                torch.zeros(32),
            )
        state["time_embed"] = torch.zeros(1, 4, 32)
    else:
        state["time_embed"] = state["time_embed"][:, nearest_rows(2, 4)]
    state.update(filled({"head.weight": [10, 32], "head.bias": [10]}))
    check_case(make_case(tmp_path / "case", family, TINY, state, [1, 3, 4, 32, 32], named))


def test_differences_fail(tmp_path: Path) -> None:
    state = filled(shapes_of(TINY))
    case = make_case(tmp_path / "case", "timesformer", TINY, state, [1, 3, 4, 32, 32])

    def changed(**facts: Any) -> Any:
        return type(case)(case.folder, {**case.facts, **facts}, case.expected)

    for facts, message in (
        ({"family": "timesformer_unheard_of"}, "nothing here builds"),
        ({"params": 3}, "parameters, published 3"),
        ({"fvcore_gmacs": 1.0}, "GMACs, published"),
        ({"input_seed": 8}, "logits: differs"),
        ({"state_dict": {}}, "state dict"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_case(changed(**facts))
    with pytest.raises(AssertionError, match="nothing here answers"):
        check_case(type(case)(case.folder, case.facts, {"attention_map": np.zeros(1)}))
    for facts in ({"act": "relu"}, {"rotary": True}, {"attention_type": "axial"}):
        with pytest.raises((ValueError, TypeError)):
            check_case(changed(config={**TINY, **facts}))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield
