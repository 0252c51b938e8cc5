"""Methods of other places are found, named wrongly with a clear message, and shown in CONTRIBUTING as they are."""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import predict
import pytest
import test_net
import torch
import train_net
from checkerboard import METHOD, Checkerboard, CheckerboardReducer
from PIL import Image

from revit.common.config.load import load
from revit.common.methods import base
from revit.common.methods.base import added, known_methods
from revit.common.system.errors import UserError
from revit.common.weights.checkpoint import load_checkpoint
from revit.image.options import ImageRun

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
CONFIG = HERE / "checkerboard.yaml"


def train(folder: Path) -> int:
    return train_net.main(["--cfg", str(CONFIG), f"run.dir={folder}"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was stopped in the middle of its second epoch and went on."""
    folder = tmp_path_factory.mktemp("sixth") / "run"
    calls, plan = [], CheckerboardReducer.plan

    def stopping(self, number, patches, layout):
        if self.training and number == 0:
            calls.append(number)
            if len(calls) == 11:
                os.kill(os.getpid(), signal.SIGTERM)
        return plan(self, number, patches, layout)

    with added("checkerboard", METHOD), pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckerboardReducer, "plan", stopping)
        assert train(folder) == 75
        assert train(folder) == 0
    assert len(calls) == 16
    return folder


def test_stopped_and_gone_on_is_as_if_never_stopped(trained, tmp_path):
    with added("checkerboard", METHOD):
        assert train(tmp_path) == 0
    whole, parts = (load_checkpoint(run / "model.safetensors").parts["model"] for run in (tmp_path, trained))
    assert all(torch.equal(weight, parts[name]) for name, weight in whole.items())


def test_test_net_and_predict_know_it(trained, tmp_path):
    out, drawings = tmp_path / "out.json", tmp_path / "drawings"
    pictures = sorted((trained / "data" / "test").rglob("*.png"))[:2]
    with added("checkerboard", METHOD):
        arguments = ["--cfg", str(CONFIG), "--checkpoint", str(trained), "--json", str(out)]
        assert test_net.main([*arguments, f"run.dir={trained}"]) == 0
        report = json.loads((trained / "report.json").read_text())
        assert json.loads(out.read_text())["fixed"][0]["top1"] == report["fixed"][0]["top1"]
        arguments = ["--checkpoint", str(trained), *map(str, pictures), "--draw", str(drawings)]
        assert predict.main([*arguments, "--json", str(out)]) == 0
    answers = json.loads(out.read_text())
    assert [Path(answer["drawing"]).parent for answer in answers] == [drawings, drawings]
    with Image.open(answers[0]["drawing"]) as drawing:
        assert drawing.width > 2 * drawing.height - 200  # input and what is left of it, side by side


def test_without_it_a_checkpoint_says_what_is_missing(trained, capsys):
    picture = next((trained / "data" / "test").rglob("*.png"))
    plain = ["methods={}", f"run.dir={trained}"]
    commands = (
        (predict.main, ["--checkpoint", str(trained), str(picture)]),
        (test_net.main, ["--cfg", str(CONFIG), "--checkpoint", str(trained), *plain]),
    )
    for main, arguments in commands:
        assert main(arguments) == 2
        said = capsys.readouterr().err.strip()
        assert "trained with checkerboard, which is not installed here" in said
        assert len(said.splitlines()) == 1
    assert test_net.main(["--cfg", str(CONFIG), "--checkpoint", str(trained)]) == 2
    assert "methods.checkerboard: no such method" in capsys.readouterr().err


def problems(folder: Path, methods: str) -> str:
    path = folder / "run.yaml"
    before, rest = CONFIG.read_text().split("methods:\n")
    path.write_text(before + methods + rest.split("\n", 1)[1].replace("lr: 2e-3", "lr: -1"))
    with added("checkerboard", METHOD), pytest.raises(UserError) as caught:
        load(ImageRun, path)
    return str(caught.value).replace(str(folder) + os.sep, "")


def test_everything_wrong_is_reported_together_and_where_it_is_written(tmp_path):
    written = "methods:\n  checkerbord: {before: 1}\n  checkerboard:\n    befor: 1\n    before: late\n"
    lines = problems(tmp_path, written).splitlines()
    assert lines[0] == "4 problems in the configuration"
    assert "run.yaml:9: methods.checkerbord: no such method" in lines[1]
    assert "did you mean checkerboard?" in lines[1]
    assert any(
        "run.yaml:11: methods.checkerboard.befor: found 1; unknown key; did you mean before?" in line for line in lines
    )
    assert any(
        "run.yaml:12: methods.checkerboard.before: found late; allowed: a valid integer" in line for line in lines
    )
    assert any("train.optim.lr: found -1; allowed: greater than 0" in line for line in lines)


def test_a_method_that_contradicts_the_rest_of_the_run_says_so(tmp_path):
    class Deep(Checkerboard):
        def check(self, run):
            if self.options.before >= run.model.depth:
                raise ValueError(f"methods.deep.before {self.options.before}: of {run.model.depth} blocks")

    path = tmp_path / "run.yaml"
    path.write_text(CONFIG.read_text().replace("checkerboard: {before: 1}", "deep: {before: 2}"))
    with added("deep", Deep), pytest.raises(UserError, match=r"methods\.deep\.before 2: of 2 blocks"):
        load(ImageRun, path)


def test_an_installed_package_brings_a_method(monkeypatch):
    point = EntryPoint("checkers", "checkerboard:METHOD", base.ENTRY_POINTS)
    found = base.entry_points
    monkeypatch.setattr(base, "entry_points", lambda group: [*found(group=group), point])
    base._installed.cache_clear()
    try:
        assert known_methods()["checkers"] is sys.modules["checkerboard"].METHOD
    finally:
        monkeypatch.undo()
        base._installed.cache_clear()
    assert "checkers" not in known_methods()


def test_contributing_shows_the_files_as_they_are():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for name in ("checkerboard.py", "checkerboard.yaml", "test_checkerboard.py"):
        assert (HERE / name).read_text().strip() in text, name


DEMO = ROOT / "configs" / "image" / "demos" / "toe.yaml"


def test_false_leaves_a_method_out_and_null_takes_its_defaults():
    assert load(ImageRun, DEMO, ["methods.toe=false"]).methods == {}
    assert load(ImageRun, DEMO, ["methods.toe=null"]).methods["toe"] == known_methods()["toe"].options_class()


@pytest.mark.parametrize("value", ["0", '""', "[]", "5"])
def test_settings_are_a_mapping(value):
    with pytest.raises(UserError, match=r"methods\.toe"):
        load(ImageRun, DEMO, [f"methods.toe={value}"])


def test_a_name_that_is_a_number_is_no_method():
    with pytest.raises(UserError, match="no such method"):
        load(ImageRun, DEMO, ["methods={1: {}}"])


def test_a_header_whose_methods_are_no_mapping_is_damaged():
    for methods in (5, "toe"):
        with pytest.raises(UserError, match="no mapping"):
            base.check_installed("a.safetensors", {"methods": methods})
