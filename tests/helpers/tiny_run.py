"""A run of pictures that is trained in seconds, with three token lengths, an assigner and a calibration."""

from __future__ import annotations

from pathlib import Path

_CONFIG = """
kind: image
data:
  demo: PICTURES
  pixels: {img_size: 48, crop_pct: 1.0}
  loading: {num_workers: 0}
model: {grids: [6x6, 4x4, 3x3], embed_dim: 32, depth: 2, num_heads: 2, patch_embed: stem, stem_widths: [8, 16, 32]}
train:
  batch_size: 16
  optim: {name: adamw, lr: 4e-3, decay_one_dimensional: false}
  schedule: {name: cosine, epochs: 2}
assigner: {size: 32, width: 0.25, train: {batch_size: 16, schedule: {name: cosine, epochs: 1}}}
calibration: {points: 11}
test: {batch_size: 16}
run: {dir: RUN, evaluate_every: null, speed_seconds: 0}
"""


def write_config(folder: Path, train: int, val: int, test: int) -> Path:
    """`folder`/config.yaml of a run in `folder`/run, on so many pictures."""
    pictures = f"{{train_pictures: {train}, val_pictures: {val}, test_pictures: {test}, num_workers: 1}}"
    path = folder / "config.yaml"
    path.write_text(_CONFIG.replace("PICTURES", pictures).replace("RUN", str(folder / "run")))
    return path
