"""What a run writes for programs and for TensorBoard, and that one process alone does."""

from __future__ import annotations

import json
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from revit.common.system.errors import UserError
from revit.common.system.log import RunLog, console, progress


def test_numbers_go_to_tensorboard_under_the_stage(tmp_path):
    log = RunLog(tmp_path / "log.jsonl", tensorboard=tmp_path / "board")
    for update in (1, 2):
        log.write("train", stage="model", update=update, loss={"6x6": 2.0 / update}, changed=["text"])
    log.write("val", epoch=1, top1={"6x6": 50.0})
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    losses = board.Scalars("model/train/loss/6x6")
    assert [(one.step, one.value) for one in losses] == [(1, 2.0), (2, 1.0)]
    assert [(one.step, one.value) for one in board.Scalars("run/val/top1/6x6")] == [(1, 50.0)]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["train", "train", "val"]


def test_a_process_that_is_not_heard_writes_nothing(tmp_path, capsys):
    log = RunLog(tmp_path / "run" / "log.jsonl", heard=False, tensorboard=tmp_path / "board")
    log.write("train", loss=1.0)
    log.say("hello")
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


def test_a_bar_moves_in_a_terminal_only(capsys, monkeypatch):
    with progress("model", 2) as update:
        update(note="epoch 1")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(console, "_force_terminal", True)
    with progress("model", 2) as update:
        update(note="epoch 1")
    assert "epoch 1" in capsys.readouterr().err


def test_tensorboard_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard, or set it to false"):
        RunLog(tmp_path / "log.jsonl", tensorboard=tmp_path / "board")
