"""`train_net --show-batch`: the drawing is of the very batch that the training begins with, and nothing else is left."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import train_net
from modalities import load_run
from PIL import Image

from revit.common.drawing.batch import Shown, draw_batch
from revit.common.drawing.tile import TokenCells
from revit.common.models.grid import TokenGrid
from revit.common.system.distributed import ALONE
from revit.common.system.log import RunLog
from revit.common.training.show_batch import first_batch, label_text
from revit.common.training.stages import Run, train_model

CONFIGS = {
    "image": """
kind: image
data:
  demo: {train_pictures: 16, val_pictures: 10, test_pictures: 10, num_workers: 1}
  pixels: {img_size: 24, crop_pct: 1.0}
  augment: {auto_augment: rand-m9-mstd0.5-inc1, erase_probability: 0.5, repeats: 2}
  mix: {mixup: 0.8, cutmix: 1.0, mode: elem}
  loading: {num_workers: 0}
model: {grids: [4x4, 2x2], embed_dim: 16, depth: 1, num_heads: 2, drop_path_rate: 0.1}
train: {batch_size: 8}
run: {dir: RUN}
""",
    "video": """
kind: video
data:
  demo: {train_clips: 8, val_clips: 8, test_clips: 8, num_workers: 1}
  frames: {num_frames: 3, sampling_rate: 8}
  pixels: {crop_size: 24, jitter_min: 24, jitter_max: 30}
  augment: {scale: [0.5, 1.0], color_jitter: 0.4, erase_probability: 0.5, erase_mode: rand}
  mix: {mixup: 0.8, cutmix: 1.0}
  loading: {num_workers: 0, decode_timeout_seconds: 0}
model: {grids: [4x4, 2x2], embed_dim: 16, depth: 1, num_heads: 2}
train: {batch_size: 4}
run: {dir: RUN}
""",
}


@pytest.fixture(scope="module", params=["image", "video"])
def config(request, tmp_path_factory) -> Path:
    """A configuration whose data is there."""
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / "config.yaml"
    path.write_text(CONFIGS[request.param].replace("RUN", str(folder / "run")))
    options, modality = load_run(path)
    modality.make_data(options)
    return path


def test_a_drawing_and_nothing_else(config, capsys):
    out, run = config.parent / "drawings" / "batch.png", config.parent / "run"
    before = sorted(run.rglob("*"))
    assert train_net.main(["--cfg", str(config), "--show-batch", str(out)]) == 0
    num, noun = (8, "pictures") if "image" in str(config.parent.name) else (4, "clips")
    assert capsys.readouterr().out == f"{out}: {num} of the {num} {noun} of the first training batch\n"
    with Image.open(out) as drawing:
        assert min(drawing.size) > 24 * 6
    assert sorted(run.rglob("*")) == before


def test_it_is_the_batch_that_the_training_begins_with(config, tmp_path, monkeypatch):
    options, modality = load_run(config)
    run = Run(options, modality, ALONE)
    run.model_to_train()
    shown, drawn = first_batch(run)
    augment = modality.batch_augment(options, len(run.label_names))

    def first(inputs, batch):
        raise FirstBatch(*augment(inputs, batch))

    monkeypatch.setattr(modality, "batch_augment", lambda *_: first)
    trained = Run(options, modality, ALONE)
    trained.log = RunLog(tmp_path / "log.jsonl")
    with pytest.raises(FirstBatch) as seen:
        train_model(trained)
    inputs, batch = seen.value.args
    assert torch.equal(modality.normalizer(options).undo(inputs), shown)
    assert torch.equal(batch.targets, drawn.targets)
    assert torch.equal(batch.ids, drawn.ids)
    assert drawn.targets.is_floating_point()


class FirstBatch(Exception):
    """Carries what the model would have got."""


def test_undoing_the_normalisation_gives_the_bytes_back(config):
    options, modality = load_run(config)
    normalizer = modality.normalizer(options)
    every = torch.arange(256, dtype=torch.uint8).expand(2, 3, 1, 256)
    assert torch.equal(normalizer.undo(normalizer(every)), every)
    assert torch.equal(normalizer.undo(normalizer(every) + 100.0), torch.full_like(every, 255))


@pytest.mark.parametrize(
    ("out", "overrides", "message"),
    [
        ("batch.jpg", [], r"batch\.png"),
        ("taken.png", [], "a folder has that name"),
        ("batch.png", ["run.dir=elsewhere"], "run the stage 'data' first"),
    ],
)
def test_what_cannot_be_drawn_says_why(config, tmp_path, capsys, out, overrides, message):
    (tmp_path / "taken.png").mkdir()
    assert train_net.main(["--cfg", str(config), *overrides, "--show-batch", str(tmp_path / out)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_labels_are_names_and_mixed_ones_shares():
    names = ["run", "jump", "sit"]
    assert label_text(torch.tensor(1), names) == "jump"
    assert label_text(torch.tensor([0.0, 1.0, 0.0]), names) == "jump"
    assert label_text(torch.tensor([0.25, 0.75, 0.0]), names) == "jump (75%), run (25%)"


@pytest.mark.parametrize("frames", [(), (3,), (40,)])
def test_every_sample_is_drawn_and_the_first_line_at_every_grid(frames):
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    samples = [Shown("a label", "a.mp4", np.full((*frames, 8, 8, 3), colour, np.uint8)) for colour in colours]
    grids = [TokenCells((8, 8), TokenGrid(4, 4), (2, 2)), TokenCells((8, 8), TokenGrid(2, 2), (4, 4))]
    plain, drawn = (np.asarray(draw_batch("a batch", samples, cells)) for cells in ([], grids))

    def share(sheet, colour):
        return int((np.abs(sheet.astype(int) - colour).max(-1) < 5).sum())

    areas = [share(plain, colour) for colour in colours]
    assert areas[0] == areas[1] == areas[2] > 64 * 100
    assert share(drawn, colours[0]) > 2.5 * areas[0]  # lines between tokens take some of it
    assert (share(drawn, colours[1]) > 2.5 * areas[1]) == (frames == ())  # of pictures the whole first line
    assert drawn.shape[0] > plain.shape[0]
