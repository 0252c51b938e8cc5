from __future__ import annotations

import pytest
import torch
from torch import nn

from revit.common.methods.revit.adaptive import AdaptiveClassifier, TokenLengthAssigner
from revit.video.models.timesformer import TimeSformer


class Recorder(nn.Module):
    """Passes calls on to the model and notes the batch sizes."""

    def __init__(self, model):
        super().__init__()
        self.model, self.grids, self.num_classes, self.calls = model, model.grids, model.num_classes, []

    def forward(self, inputs, grid):
        self.calls.append((grid.name, len(inputs)))
        return self.model(inputs, grid)


@pytest.fixture
def model():
    model = TimeSformer(32, [4, 2, 1], 2, 5, 32, 2, 4, pos_std=0.5, time_std=0.5).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("grid_index", [[0, 1, 2, 1, 0, 2, 2], [0] * 7, [2] * 7, [1, 0, 0, 0, 0, 0, 0]])
def test_every_input_gets_the_answer_of_its_own_grid_in_input_order(model, grid_index):
    inputs = torch.randn(7, 3, 2, 32, 32)
    output = AdaptiveClassifier(model, max_batch=3)(inputs, torch.tensor(grid_index))
    for row, position in enumerate(grid_index):
        alone = model(inputs[row : row + 1], model.grids[position]).prediction[0]
        assert torch.allclose(output.prediction[row], alone, atol=1e-5)
    assert output.grid_index.tolist() == grid_index


def test_groups_run_dense_and_in_bounded_pieces(model):
    recorder = Recorder(model)
    grid_index = torch.tensor([0] * 5 + [2] * 40)
    AdaptiveClassifier(recorder, max_batch=2)(torch.randn(45, 3, 2, 32, 32), grid_index)
    # 16 tokens against 1: the shortest grid takes 16 times as many at once.
    assert recorder.calls == [("4x4", 2), ("4x4", 2), ("4x4", 1), ("1x1", 32), ("1x1", 8)]


def test_the_assigner_chooses(model):
    assigner = TokenLengthAssigner(3, size=32, num_frames=2, width=0.25, depth=0.5).eval()
    inputs = torch.randn(6, 3, 2, 32, 32)
    output = AdaptiveClassifier(model, assigner)(inputs)
    assert torch.equal(output.grid_index, assigner(inputs).argmax(1))


def test_without_an_assigner_everything_runs_at_the_longest(model):
    assert AdaptiveClassifier(model)(torch.randn(2, 3, 2, 32, 32)).grid_index.tolist() == [0, 0]


def test_assigner_sees_the_middle_of_every_share_of_the_clip():
    seen = []
    assigner = TokenLengthAssigner(2, size=32, num_frames=3, width=0.25, depth=0.5).eval()
    assigner.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    clip = torch.arange(12.0).view(1, 1, 12, 1, 1).expand(1, 3, 12, 32, 32)
    assigner(clip)
    assert seen[0][:, 0, 0, 0].tolist() == [2, 6, 10]
    assigner(clip[:, :, :2])  # fewer frames than it wants: some are seen twice
    assert seen[1][:, 0, 0, 0].tolist() == [0, 1, 1]


def test_assigner_averages_frames_and_takes_pictures_too():
    assigner = TokenLengthAssigner(2, size=32, num_frames=2, width=0.25, depth=0.5).eval()
    clip = torch.randn(3, 3, 2, 40, 40)
    mean = (assigner(clip[:, :, 0]) + assigner(clip[:, :, 1])) / 2
    assert torch.allclose(assigner(clip), mean, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "depth", "millions"), [(1.0, 1.0, 4.01), (0.5, 1.0, 1.07), (0.5, 0.5, 0.66), (0.25, 0.5, 0.20)]
)
def test_assigner_sizes(width, depth, millions):
    assigner = TokenLengthAssigner(3, width=width, depth=depth)
    assert sum(weight.numel() for weight in assigner.parameters()) == pytest.approx(millions * 1e6, rel=0.01)


class Says(nn.Module):
    """An assigner with given probabilities."""

    def __init__(self, *rows):
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, inputs):
        return self.rows.log()


@pytest.mark.parametrize(
    ("confidence", "expected"), [(None, [1, 2, 0]), (0.5, [1, 2, 0]), (0.85, [0, 1, 0]), (0.05, [2, 2, 2])]
)
def test_confidence_takes_the_shortest_grid_that_suffices(model, confidence, expected):
    """Rows are P(label); a grid suffices where the label is it or a shorter one."""
    assigner = Says([0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1])
    classifier = AdaptiveClassifier(model, assigner, confidence=confidence)
    assert classifier.assign(torch.zeros(3, 3, 2, 32, 32)).tolist() == expected
