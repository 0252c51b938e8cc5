"""The served model says what the plain float32 model says, at every length and every batch size around a bucket's edges."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from revit.common.methods.dynamicvit.method import DynamicViT, DynamicViTOptions
from revit.common.serving.runtime import Runtime
from revit.image.models.transformers import DeiT, LVViT
from revit.video.models.timesformer import TimeSformer

CPU = torch.device("cpu")


def timesformer(**changes: Any) -> TimeSformer:
    settings: dict[str, Any] = {
        "img_size": 32,
        "grids": (4, 3, 2),
        "num_frames": 2,
        "num_classes": 7,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "linear_std": 0.2,
        "pos_std": 0.3,
    }
    return TimeSformer(**settings | changes).eval()


def relative(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("bfloat16", 3e-2), ("float16", 5e-3)])
def test_every_length_and_batch_size(dtype: str, limit: float) -> None:
    model = timesformer()
    before = copy.deepcopy(model.state_dict())
    runtime = Runtime(model, CPU, dtype, max_batch=4)
    for grid in model.grids:
        for count in range(1, runtime.limit(grid) + 2):
            clips = torch.randn(count, 3, 2, 32, 32)
            with torch.no_grad():
                expected = model(clips, grid).prediction
            output = runtime(clips, grid)
            assert output.prediction.dtype == torch.float32
            assert relative(output.prediction, expected) < limit
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])


def test_compiled_batches_are_padded_to_a_few_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, str]] = []

    def counting(network: Any, **_: Any) -> Any:
        def run(inputs: torch.Tensor, grid: Any) -> Any:
            shapes.append((len(inputs), grid.name))
            return network(inputs, grid)

        return run

    monkeypatch.setattr(torch, "compile", counting)
    model = timesformer()
    runtime = Runtime(model, CPU, compiled=True, max_batch=3)
    for grid in model.grids:
        for count in range(1, runtime.limit(grid) + 1):
            clips = torch.randn(count, 3, 2, 32, 32)
            with torch.no_grad():
                expected = model(clips, grid).prediction
            assert relative(runtime(clips, grid).prediction, expected) < 1e-5
    found = {name: sorted({count for count, at in shapes if at == name}) for _, name in shapes}
    assert found == {"4x4": [1, 2, 3], "3x3": [1, 2, 4, 5], "2x2": [1, 2, 4, 8, 12]}


def test_the_compiler_s_own_graphs() -> None:
    model = timesformer(grids=(4, 2), depth=1)
    runtime = Runtime(model, CPU, compiled=True, max_batch=2)
    for grid in model.grids:
        clips = torch.randn(3 if grid.rows == 2 else 2, 3, 2, 32, 32)
        with torch.no_grad():
            expected = model(clips, grid).prediction
        assert relative(runtime(clips, grid).prediction, expected) < 1e-5


def test_what_a_reducer_did_is_cut_to_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    for attention in ("divided_space_time", "space_only"):
        model = timesformer(grids=(4,), depth=4, attention=attention)
        options = DynamicViTOptions.model_validate({"keep_rate": 0.5, "before_blocks": [1, 2, 3]})
        DynamicViT(options).attach(model)
        runtime = Runtime(model.eval(), CPU, compiled=True, max_batch=8)
        clips = torch.randn(3, 3, 2, 32, 32)
        with torch.no_grad():
            expected = model(clips)
        output = runtime(clips)
        assert relative(output.prediction, expected.prediction) < 1e-5
        assert torch.equal(output.reduction.token_source_map, expected.reduction.token_source_map)
        assert len(output.reduction.token_source_maps) == len(expected.reduction.token_source_maps) > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pictures_with_several_heads(dtype: str) -> None:
    pictures = torch.randn(3, 3, 32, 32)
    sizes: dict[str, Any] = {"img_size": 32, "num_classes": 6, "embed_dim": 32, "depth": 2, "num_heads": 2}
    for model in (
        DeiT(grids=(4, 2), **sizes),
        DeiT(grids=(4,), distillation="every_grid", **sizes),
        LVViT(grids=(2,), **sizes),
    ):
        model.eval()
        for head in model.heads():
            torch.nn.init.normal_(head.weight)
        runtime = Runtime(model, CPU, dtype)
        for grid in model.grids:
            with torch.no_grad():
                expected = model(pictures, grid).prediction
            assert relative(runtime(pictures, grid).prediction, expected) < (1e-5 if dtype == "float32" else 3e-2)


def test_logits_are_not_rounded_to_the_dtype() -> None:
    runtime = Runtime(timesformer(), CPU, "bfloat16")
    logits = runtime(torch.randn(4, 3, 2, 32, 32)).prediction
    assert not torch.equal(logits, logits.bfloat16().float())
