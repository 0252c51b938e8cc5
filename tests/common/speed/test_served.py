"""The served model is timed only where it answers as the plain one does."""

from __future__ import annotations

import pytest
import torch

from revit.common.methods.dynamicvit.method import DynamicViT, DynamicViTOptions
from revit.common.methods.revit.adaptive import TokenLengthAssigner
from revit.common.serving.packed import pack
from revit.common.serving.runtime import Runtime
from revit.common.speed.served import LARGEST_DIFFERENCE, SERVED, served_cases
from revit.common.timing import cases
from revit.common.timing.clock import SIDES
from revit.common.timing.measure import measure
from revit.common.timing.memory import weight_bytes
from revit.video.models.timesformer import TimeSformer

CPU = torch.device("cpu")
SHAPE = (1, 3, 2, 32, 32)


def timesformer(**changes):
    settings = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5, "linear_std": 0.2}
    return TimeSformer(32, (4, 2), num_frames=2, **settings | changes)


def has_int8():
    return torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()


def test_every_row_of_the_plain_model_has_one_served(monkeypatch):
    monkeypatch.setitem(SIDES, "cpu", 64)
    model, assigner = timesformer(), TokenLengthAssigner(2, size=32)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    dtypes = ["float32", "bfloat16", *(["int8"] if has_int8() else [])]
    rows = measure(list(served_cases("tiny", model, assigner, SHAPE, CPU, dtypes, [1, 3])), CPU, 1, 0.0)
    assert [(row["dtype"], row["batch"], row["grid"]) for row in rows] == [
        (dtype, batch, grid) for dtype in dtypes for batch in (1, 3) for grid in ("4x4", "2x2", "adaptive")
    ]
    assert {(row["name"], row["compiled"]) for row in rows} == {(SERVED, False)}
    assert [row["fraction_of_peak"] is None for row in rows] == [row["dtype"] == "int8" for row in rows]
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_compiled_rows_beside_eager_ones(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    dtypes = ["float32", *(["int8"] if has_int8() else [])]
    cases = list(served_cases("tiny", timesformer(), None, SHAPE, CPU, dtypes, [2], (False, True)))
    assert [(case.dtype, case.compiled, case.grid) for case in cases] == [
        ("float32", False, "4x4"),
        ("float32", False, "2x2"),
        ("float32", True, "4x4"),
        ("float32", True, "2x2"),
        *([("int8", False, "4x4"), ("int8", False, "2x2")] if has_int8() else []),
    ]


@pytest.mark.parametrize("grid", ["4x4", "2x2"])
def test_a_wrong_answer_is_an_error(monkeypatch, grid):
    forward = Runtime.forward

    def wrong(self, inputs, at=None):
        output = forward(self, inputs, at)
        return output._replace(logits=output.logits.roll(1, dims=1)) if at.name == grid else output

    monkeypatch.setattr(Runtime, "forward", wrong)
    with pytest.raises(RuntimeError, match=f"tiny at {grid}, bfloat16, eager, batch 3: as served"):
        list(served_cases("tiny", timesformer(), None, SHAPE, CPU, ["bfloat16"], [3]))


def test_answers_of_the_adaptive_pass_are_compared_too(monkeypatch):
    def dealt(classifier, inputs):
        return lambda: [torch.full((len(inputs), 5), torch.nan) for _ in classifier.grids]

    monkeypatch.setattr(cases, "even_pass", dealt)
    assigner = TokenLengthAssigner(2, size=32)
    with pytest.raises(RuntimeError, match=r"tiny at adaptive, float32, eager, batch 2: .* by nan"):
        list(served_cases("tiny", timesformer(), assigner, SHAPE, CPU, ["float32"], [2]))


def test_what_starts_at_zero_takes_part_in_the_comparison(monkeypatch):
    model = timesformer(depth=1)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    (case, *_) = served_cases("tiny", model, None, SHAPE, CPU, ["float32"], [2])
    assert case.run().prediction.any()
    assert not model.head.weight.any()  # ours is left as it was


def test_a_model_that_drops_tokens_is_served():
    model = timesformer(depth=4).eval()
    options = DynamicViTOptions.model_validate({"keep_rate": 0.5, "before_blocks": [1, 2, 3]})
    DynamicViT(options).attach(model)
    cases = list(served_cases("tiny", model, None, SHAPE, CPU, ["float32", "bfloat16"], [2]))
    assert [case.dtype for case in cases[:: len(model.grids)]] == ["float32", "bfloat16"]


def test_packed_weights_are_counted():
    model = timesformer(depth=1)
    plain = weight_bytes(model)
    assert weight_bytes(pack(model, torch.float32)) == pytest.approx(plain, rel=0.2)
    (case, *_) = served_cases("tiny", model, None, SHAPE, CPU, ["float32"], [1])
    assert case.weight_bytes == pytest.approx(plain, rel=0.2)


def test_limits_grow_with_the_rounding():
    limits = [LARGEST_DIFFERENCE[dtype] for dtype in ("float32", "float16", "bfloat16", "int8")]
    assert limits == sorted(limits)
    assert len(set(limits)) == 4
