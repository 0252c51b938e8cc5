"""A run that its surroundings stop ends in one clear message, and goes on from there as if nothing had happened."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
import train_net
from PIL import Image

from revit.common.system import log
from revit.common.system.errors import UserError
from revit.common.training import recipe, stages, state
from revit.common.weights.checkpoint import load_checkpoint
from revit.image.data import pictures

CONFIG = """
kind: image
data:
  source: {train: FOLDER/list.txt, val: FOLDER/list.txt}
  pixels: {img_size: 32, crop_pct: 1.0}
  augment: {erase_probability: 0.3}
  loading: {num_workers: 0}
model: {name: deit_small, grids: [4x4], embed_dim: 16, depth: 1, num_heads: 2}
train: {batch_size: 8, optim: {name: adamw, lr: 1e-3}, schedule: {name: cosine, epochs: 2}}
run: {dir: FOLDER/run, save_every: 1, log_every: 1}
"""
TOO_SMALL = 4000
"""Bytes that no state or model of this configuration fits into, but every other file of its run."""


def prepare(folder: Path) -> Path:
    random = np.random.default_rng(0)
    lines = []
    for number in range(24):
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{folder / str(number)}.png {number % 3}\n")
    (folder / "list.txt").write_text("".join(lines))
    (folder / "config.yaml").write_text(CONFIG.replace("FOLDER", str(folder)))
    return folder


def train(folder: Path, *overrides: str) -> int:
    return train_net.main(["--cfg", str(folder / "config.yaml"), *overrides])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(folder / "run" / "checkpoint.safetensors").parts["model"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a run that nothing stopped."""
    folder = prepare(tmp_path_factory.mktemp("whole"))
    assert train(folder) == 0
    return weights(folder)


@pytest.fixture
def folder(tmp_path):
    return prepare(tmp_path)


def goes_on(folder: Path, whole: dict[str, torch.Tensor]) -> None:
    """The same command ends well, with the weights of a run that nothing stopped, and leaves nothing half-written."""
    assert train(folder) == 0
    for name, weight in weights(folder).items():
        assert torch.equal(weight, whole[name]), name
    assert not list(folder.rglob("*.part"))
    assert [path.suffix for path in folder.rglob("update-*")] == [".pt"]  # the last, for more epochs
    for line in (folder / "run" / "log.jsonl").read_text().splitlines():
        json.loads(line)


def one_message(capfd: pytest.CaptureFixture[str]) -> str:
    """What was said last; no traceback before it."""
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert said.count("error: ") == 1
    return said[said.index("error: ") :]


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Inside, the system refuses to let any file grow further: the same half-written files as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only() -> Iterator[None]:
    """Inside, no file takes its place, as in a folder that became read-only."""

    def refuse(*paths: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), *paths)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        yield


def fails_at(call: int, work: Callable, trouble: Callable) -> Callable:
    """`work`, whose call number `call` meets `trouble`."""
    calls = count(1)

    def troubled(*arguments, **options):
        if next(calls) == call:
            with trouble():
                return work(*arguments, **options)
        return work(*arguments, **options)

    return troubled


def full_disk():
    return no_file_beyond(TOO_SMALL)


@pytest.mark.parametrize(
    ("call", "trouble", "reason"),
    [(1, full_disk, "File too large"), (3, read_only, "Read-only file system"), (5, full_disk, "File too large")],
)
def test_a_state_that_cannot_be_written(folder, whole, monkeypatch, capfd, trouble, reason, call):
    with monkeypatch.context() as patch:
        patch.setattr(state, "save_state", fails_at(call, state.save_state, trouble))
        assert train(folder) == 2
    message = one_message(capfd)
    assert f"update-{call:08d}.pt: the training state cannot be written ({reason})" in message
    assert "goes on from the last state" in message
    goes_on(folder, whole)
    assert ("going on" in capfd.readouterr().err) == (call > 1)


@pytest.mark.parametrize(
    ("call", "trouble", "reason"),  # the best model, the last, and the evaluated one
    [(1, read_only, "Read-only file system"), (2, full_disk, "File too large"), (3, full_disk, "File too large")],
)
def test_a_model_that_cannot_be_written(folder, whole, monkeypatch, capfd, trouble, reason, call):
    with monkeypatch.context() as patch:
        patch.setattr(stages, "save_checkpoint", fails_at(call, stages.save_checkpoint, trouble))
        assert train(folder) == 2
    assert f"safetensors: the model cannot be written ({reason})" in one_message(capfd)
    goes_on(folder, whole)


def test_a_log_that_cannot_be_written_leaves_no_half_line(folder, whole, monkeypatch, capfd):
    def full():
        size = (folder / "run" / "log.jsonl").stat().st_size
        return no_file_beyond(size + 20)

    with monkeypatch.context() as patch:
        patch.setattr(log.RunLog, "write", fails_at(4, log.RunLog.write, full))
        assert train(folder) == 2
    assert "log.jsonl: cannot be written (File too large" in one_message(capfd)
    goes_on(folder, whole)


def test_a_folder_that_cannot_be_made(folder, whole, capfd):
    (folder / "run").touch()
    assert train(folder) == 2
    assert "run" in one_message(capfd)
    (folder / "run").unlink()
    goes_on(folder, whole)


def stopped_after(folder: Path, num_states: int) -> list[Path]:
    """The states of a run that was stopped while it wrote state `num_states` + 1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "save_state", fails_at(num_states + 1, state.save_state, full_disk))
        assert train(folder) == 2
    states = sorted((folder / "run" / "states" / "model").iterdir())
    assert [path.name for path in states if path.suffix == ".pt"] == [
        f"update-{number:08d}.pt" for number in range(max(1, num_states - 1), num_states + 1)
    ]
    return [path for path in states if path.suffix == ".pt"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip_one_bit])
def test_a_damaged_state_is_named_and_an_older_one_taken(folder, whole, capfd, caplog, damage):
    *_, newest = stopped_after(folder, 4)
    damage(newest)
    capfd.readouterr()
    goes_on(folder, whole)
    assert f"{newest}: damaged" in caplog.text
    assert "going on after epoch 1" in capfd.readouterr().err


def test_states_that_are_all_damaged_do_not_start_the_run_over(folder, whole, capfd):
    states = stopped_after(folder, 4)
    good = states[0].read_bytes()
    for path in states:
        cut(path)
    for _ in range(2):  # asking again does not help
        capfd.readouterr()
        assert train(folder) == 2
        assert "none of its states can be read (update-00000003" in one_message(capfd)
    states[0].write_bytes(good)
    goes_on(folder, whole)


def test_a_damaged_state_is_not_counted_among_the_last(tmp_path):
    for number in (1, 2, 9):
        state.save_state(tmp_path, number, {"number": number}, keep=9)
    cut(tmp_path / "update-00000009.pt")
    assert state.load_newest_state(tmp_path) == {"number": 2}
    state.save_state(tmp_path, 3, {"number": 3}, keep=1)
    assert state.load_newest_state(tmp_path) == {"number": 3}


def test_what_was_begun_is_removed(tmp_path):
    (tmp_path / "update-00000007.part").write_bytes(b"half")
    state.save_state(tmp_path, 8, {})
    assert [path.name for path in tmp_path.iterdir()] == ["update-00000008.pt"]


def test_an_end_between_the_model_and_the_book_costs_no_training(folder, whole, monkeypatch, capfd):
    """The states are only removed when the book says that the stage is done."""
    with monkeypatch.context() as patch:
        # Calls: the stage is begun; the stage is done.
        patch.setattr(recipe.StageBook, "_write", fails_at(2, recipe.StageBook._write, read_only))
        assert train(folder) == 2
    assert "stages.json: cannot be written: Read-only" in one_message(capfd)
    goes_on(folder, whole)
    assert "going on after epoch 2" in capfd.readouterr().err


def test_a_damaged_book_is_named(folder, whole, capfd):
    stopped_after(folder, 1)
    book = folder / "run" / "stages.json"
    content = book.read_bytes()
    cut(book)
    capfd.readouterr()
    assert train(folder) == 2
    assert "stages.json: cannot be read" in one_message(capfd)
    book.write_bytes(content)
    goes_on(folder, whole)


def test_a_worker_killed_while_a_state_is_written_is_not_called_a_full_disk(tmp_path, monkeypatch):
    """torch says it from a signal handler, wherever the program happens to be."""

    def interrupted(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(UserError, match="a loading worker was killed by the system"):
        state.save_state(tmp_path, 1, {})


@pytest.mark.parametrize("picture", [1, 20])
def test_a_worker_killed_by_the_system(folder, whole, monkeypatch, capfd, picture):
    read, main = pictures._read, os.getpid()

    def killed(samples, index):
        if os.getpid() != main and index == picture:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(samples, index)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "_read", killed)
        assert train(folder, "data.loading.num_workers=1") == 2
    assert "a loading worker was killed by the system" in one_message(capfd)
    goes_on(folder, whole)
