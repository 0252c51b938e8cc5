"""A run's book: what other settings cost it, before and after something was saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from revit.common.system.errors import UserError
from revit.common.system.log import RunLog
from revit.common.training.run_folder import StageBook

OLD, NEW = {"start": {"source": "nowhere.pth"}}, {"start": {"source": None}}


@pytest.fixture
def begun(tmp_path):
    """The folder of a run whose model stage ended before it trained."""

    def refuse() -> None:
        raise UserError("nowhere.pth: no such file")

    with pytest.raises(UserError, match="no such file"):
        do(tmp_path, OLD, refuse)
    return tmp_path


def book(folder: Path) -> StageBook:
    """As the next process reads it."""
    return StageBook(folder, RunLog(folder / "log.jsonl"))


def do(folder: Path, settings: dict, work: Callable[[], None]) -> bool:
    with book(folder).doing("model", settings) as due:
        if due:
            work()
    return due


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_stage_of_which_nothing_was_saved_takes_new_settings(begun, capsys):
    model = begun / "model.safetensors"
    touch(begun / "states" / "model" / "update-00000001.part")  # cut off in the writing
    again = book(begun)
    again.check("model", NEW, [model])
    with again.doing("model", NEW, [model]) as due:
        assert due
        model.touch()
    said = capsys.readouterr().err
    assert "model: takes the new settings (start.source: nowhere.pth -> None)" in said
    assert book(begun).book["model"]["settings"] == NEW


@pytest.mark.parametrize(
    "saved", ["model.safetensors", "states/model/update-00000001.pt", "states/model/update-00000001.damaged"]
)
def test_one_with_a_state_or_a_result_is_refused(begun, saved):
    path = touch(begun / saved)
    with pytest.raises(UserError, match=r"other settings \(start.source: nowhere.pth -> None\)"):
        book(begun).check("model", NEW, [begun / "model.safetensors"])
    book(begun).check("model", OLD, [begun / "model.safetensors"])
    assert path.exists()


def test_one_that_is_done_is_refused_though_its_states_are_gone(tmp_path):
    do(tmp_path, OLD, lambda: None)
    with pytest.raises(UserError, match="other settings"):
        book(tmp_path).check("model", NEW, [tmp_path / "model.safetensors"])
