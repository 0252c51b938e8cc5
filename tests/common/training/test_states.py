"""States of a training on disk: random numbers come back, damaged files are passed over, old ones removed."""

from __future__ import annotations

import random

import numpy as np
import torch

from revit.common.training.state import load_newest_state, random_states, restore_random_states, save_state, seed_all


def test_random_states_survive_the_file(tmp_path):
    seed_all(3)
    random.gauss(0, 1)
    np.random.randn()  # noqa: NPY002  # each leaves a second normal number for later
    save_state(tmp_path, 1, {"random": random_states()})

    def draw():
        return random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    first = draw()
    seed_all(4)
    assert draw() != first
    restore_random_states(load_newest_state(tmp_path)["random"])
    assert draw() == first


def test_a_damaged_state_is_passed_over(tmp_path):
    for update in (1, 2):
        save_state(tmp_path, update, {"update": update})
    newest = tmp_path / "update-00000002.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    assert load_newest_state(tmp_path) == {"update": 1}
    assert load_newest_state(tmp_path / "nowhere") is None


def test_only_the_newest_states_are_kept(tmp_path):
    for update in range(5):
        save_state(tmp_path, update, {"update": update}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["update-00000003.pt", "update-00000004.pt"]
