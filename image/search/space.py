"""The topologies that are searched (As-ViT table 1): twelve choices."""

from __future__ import annotations

import math
from collections.abc import Sequence

from revit.image.models.genotype import SEED_WIDTH, Genotype, Stage

CHOICES: dict[str, tuple[int, ...]] = {
    "K1": (4, 5, 6, 7, 8),
    "S1": (2, 4, 8),
    "E1": (2, 3, 4, 5, 6),
    "K2": (2, 3, 4),
    "S2": (1, 2, 4),
    "E2": (2, 3, 4, 5, 6),
    "K3": (2, 3, 4),
    "S3": (1, 2),
    "E3": (2, 3, 4, 5, 6),
    "K4": (2, 3, 4),
    "E4": (2, 3, 4, 5, 6),
    "heads": (16, 32, 64),
}
"""Name and values of every choice: kernel, splits and expansion by stage, and the last stage's heads. The last stage, whose
map is small, has no splits."""

UNIFORM_ENTROPY = sum(math.log(len(values)) for values in CHOICES.values())
"""Nats: 15.33."""

PAPER_MEANS = {
    "K1": 7.3,
    "K2": 4.0,
    "K3": 4.0,
    "K4": 4.0,
    "E1": 3.3,
    "E2": 3.9,
    "E3": 4.2,
    "E4": 5.2,
    "S1": 4.0,
    "S2": 2.7,
    "S3": 1.5,
    "heads": 42.7,
}
"""What the paper's searches found on ImageNet (table 3)."""


def topology(values: Sequence[int], width: int = SEED_WIDTH) -> Genotype:
    """Twelve values, in the order of `CHOICES` -> one block a stage."""
    of = dict(zip(CHOICES, values, strict=True)) | {"S4": 1}
    stages = tuple(Stage(of[f"K{n}"], of[f"S{n}"], of[f"E{n}"]) for n in (1, 2, 3, 4))
    return Genotype(stages, of["heads"], width)


def values_of(genotype: Genotype) -> dict[str, int]:
    """The value of every choice, by its name."""
    found = {"heads": genotype.heads}
    for number, stage in enumerate(genotype.stages, 1):
        found |= {f"K{number}": stage.kernel, f"S{number}": stage.splits, f"E{number}": stage.expansion}
    return {name: found[name] for name in CHOICES}
