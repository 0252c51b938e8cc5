"""Batches of one length across a whole split answer as each batch alone does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from revit.common.data.batch import Batch
from revit.common.evaluation.evaluate import Streamed, evaluate, grid_runners
from revit.common.methods.revit.adaptive import AdaptiveClassifier
from revit.common.models.base import Normalizer
from revit.common.serving.batches import OUT_OF_MEMORY
from revit.image.models.transformers import DeiT

CPU = torch.device("cpu")
PIXELS = Normalizer((0.5,) * 3, (0.3,) * 3)
VIEWS = 3


class ByBrightness(nn.Module):
    """Every third of the inputs at each grid, in the long run."""

    def forward(self, inputs: Tensor) -> Tensor:
        bright = (inputs.flatten(1)[:, :7].mean(1) * 10).long() % 3
        return nn.functional.one_hot(bright, 3).float()


def classifier(max_batch: int = 4) -> AdaptiveClassifier:
    torch.manual_seed(0)
    model = DeiT(img_size=32, grids=(4, 2, 1), num_classes=5, embed_dim=16, depth=1, num_heads=2)
    for head in model.heads():
        nn.init.normal_(head.weight)
    return AdaptiveClassifier(model, ByBrightness(), max_batch).eval()


def batches(number: int, samples: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(
            torch.randint(256, (samples * VIEWS, 3, 32, 32), generator=generator, dtype=torch.uint8),
            torch.zeros(samples, dtype=torch.long),
            torch.arange(samples) + samples * first,
            num_views=VIEWS,
        )
        for first in range(number)
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_answers_are_those_of_every_batch_alone(dtype: str) -> None:
    networks = classifier()
    ran: list[tuple[str, int]] = []
    networks.model.register_forward_hook(lambda model, inputs, output: ran.append((inputs[1].name, len(inputs[0]))))
    plain = evaluate({"adaptive": networks}, batches(20), PIXELS, CPU, dtype).answers["adaptive"]
    ran.clear()
    found = evaluate({"adaptive": Streamed(networks, PIXELS, CPU)}, batches(20), PIXELS, CPU, dtype)
    streamed = found.answers["adaptive"]
    assert streamed.logits.shape == (80, VIEWS, 5)
    assert torch.equal(streamed.grid_index, plain.grid_index)
    assert set(plain.grid_index.flatten().tolist()) == {0, 1, 2}
    torch.testing.assert_close(streamed.logits, plain.logits, atol=1e-5 if dtype == "float32" else 0.1, rtol=0)
    assert streamed.seconds > 0
    limits = {"4x4": 4, "2x2": 16, "1x1": 64}
    assert sum(count for _, count in ran) == 80 * VIEWS
    for name, limit in limits.items():
        sizes = [count for grid, count in ran if grid == name]
        assert all(count == limit for count in sizes[:-1])  # what is left comes last


def test_every_grid_agrees_with_what_was_assigned() -> None:
    networks = classifier()
    runners: dict[str, Any] = {**grid_runners(networks), "adaptive": Streamed(networks, PIXELS, CPU)}
    answers = evaluate(runners, batches(5), PIXELS, CPU).answers
    per_grid = torch.stack([answers[grid.name].logits for grid in networks.grids])
    grid_index = answers["adaptive"].grid_index
    expected = per_grid.gather(0, grid_index[None, ..., None].expand(1, -1, -1, 5))[0]
    torch.testing.assert_close(answers["adaptive"].logits, expected, atol=1e-5, rtol=0)


def test_pixels_are_let_go_of_once_they_were_answered() -> None:
    streamed = Streamed(classifier(max_batch=1), PIXELS, CPU)
    most = 0
    for batch in batches(40, samples=1):
        streamed.add(batch.inputs, VIEWS)
        held = sum(one.views is not None for one in streamed._all)
        assert held == len(streamed._open)
        most = max(most, held)
    logits, grid_index = streamed.finish()
    assert logits.shape == (40, VIEWS, 5)
    assert grid_index.shape == (40, VIEWS)
    assert 0 < most <= 1 + 4 + 16  # views that fill all batches
    assert all(one.views is None for one in streamed._all)


def test_nothing_came_and_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = classifier()
    assert [len(tensor) for tensor in Streamed(networks, PIXELS, CPU).finish()] == [0, 0]

    def no_room(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(networks.model, "forward", no_room)
    streamed = Streamed(networks, PIXELS, CPU)
    (batch,) = batches(1)
    with pytest.raises(MemoryError, match=OUT_OF_MEMORY[:20]):
        streamed.add(batch.inputs.repeat(10, 1, 1, 1), VIEWS)


def test_a_policy_sees_the_inputs_batch_by_batch() -> None:
    networks = classifier()
    seen: list[int] = []
    assign = networks.assign

    def noted(inputs: Tensor) -> Tensor:
        seen.append(len(inputs))
        return assign(inputs)

    networks.assign = noted  # type: ignore[method-assign]
    evaluate({"adaptive": Streamed(networks, PIXELS, CPU)}, batches(3), PIXELS, CPU)
    assert seen == [12, 12, 12]
