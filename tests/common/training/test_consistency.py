"""Processes that were not given the same settings or the same folder are told so before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from revit.common.system.distributed import DistributedContext
from revit.common.system.errors import UserError
from revit.common.training import run_folder
from revit.common.training.run_folder import check_same, check_shared, clear

SETTINGS = {"train": {"batch_size": 8, "optim": {"lr": 0.1}}, "run": {"dir": "/shared/a", "seed": 0}}


class Two(DistributedContext):
    """Rank 0 of two; the other one answers `other`."""

    other: object = None

    def gather(self, value):
        return [value, self.other]

    def on_main(self, work):
        return work()


def two(other: object) -> Two:
    context = Two(0, 2)
    object.__setattr__(context, "other", other)
    return context


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"run": {"dir": "/shared/b", "seed": 0}}, r"run\.dir: /shared/a for rank 0 on .*, /shared/b for rank 1 on n2"),
        ({"train": {"batch_size": 8, "optim": {"lr": 0.2}}}, r"train\.optim\.lr: 0\.1 .*, 0\.2 for rank 1"),
        ({"--stage": "model"}, "--stage: None .*, model for rank 1"),
        ({"run": {"dir": "/b", "seed": 1}}, r"first of all run\.dir: "),
    ],
)  # fmt: skip
def test_the_first_setting_that_differs_is_named(theirs, said):
    with pytest.raises(UserError, match=said):
        check_same(SETTINGS, two(("n2", {**SETTINGS, **theirs})))


def test_the_same_settings_are_fine():
    check_same(SETTINGS, two(("n2", SETTINGS)))
    check_same(SETTINGS, DistributedContext())


def test_a_folder_that_another_machine_has_of_its_own_is_named(tmp_path):
    with pytest.raises(UserError, match=r"run is not the same folder on all machines: n2 cannot read there"):
        check_shared(tmp_path / "run", two("n2"))
    assert list((tmp_path / "run").iterdir()) == []


def test_a_shared_folder_is_left_as_it_was(tmp_path):
    check_shared(tmp_path, two(None))
    check_shared(tmp_path, DistributedContext())
    assert list(tmp_path.iterdir()) == []


class Other(DistributedContext):
    """The second of two machines: what rank 0 wrote lies in the first's folder."""

    def on_main(self, work):
        return "n1", "fresh"

    def gather(self, value):
        return [None, value]


@pytest.mark.parametrize("old", [None, "stale"])
def test_a_folder_of_an_older_run_does_not_pass_for_the_shared_one(tmp_path, old):
    if old is not None:
        (tmp_path / run_folder.TOKEN).write_text(old)
        (tmp_path / "stages.json").write_text("{}")
    with pytest.raises(UserError, match="cannot read there what rank 0 on n1 writes"):
        check_shared(tmp_path, Other(1, 2), patience_s=0)


def test_a_file_that_shows_late_is_waited_for(tmp_path, monkeypatch):
    def shows(_):
        (tmp_path / run_folder.TOKEN).write_text("fresh")

    monkeypatch.setattr(run_folder.time, "sleep", shows)
    check_shared(tmp_path, Other(1, 2))


def test_what_a_killed_start_leaves_is_no_reason_to_refuse_the_folder(tmp_path):
    Path(tmp_path / run_folder.TOKEN).touch()
    clear(tmp_path)
