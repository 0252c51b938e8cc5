"""Budgets from one small run to its tests and predictions; its assigner learned shuffled labels and is called useless."""

from __future__ import annotations

import csv
import json
import random
import re
from dataclasses import replace

import budgets
import predict
import pytest
import report
import test_net as tool_test_net
import train_net
from tiny_run import write_config

from revit.common.methods.revit.budget import KEY
from revit.common.weights.checkpoint import load_checkpoint, save_checkpoint


def shuffle_labels(path):
    """Which grids are right is dealt out anew, so a label says nothing of its picture."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    labels = [row[3:] for row in rows]
    random.Random(0).shuffle(labels)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *([*row[:3], *label] for row, label in zip(rows, labels))])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with config.yaml and the run made from it."""
    folder = tmp_path_factory.mktemp("budgets")
    path = write_config(folder, 160, 120, 240)
    for stage in ("data", "model", "lengths"):
        assert train_net.main(["--cfg", str(path), "--stage", stage]) == 0
    shuffle_labels(folder / "run" / "lengths.csv")
    assert train_net.main(["--cfg", str(path)]) == 0
    return folder


def evaluate(folder, *arguments):
    """The tool's exit status, and what it wrote."""
    out = folder / "out.json"
    out.unlink(missing_ok=True)
    fixed = ["--cfg", str(folder / "config.yaml"), "--checkpoint", str(folder / "run"), "--json", str(out)]
    status = tool_test_net.main([*fixed, *arguments])
    return status, json.loads(out.read_text()) if out.exists() else None


def curve(folder):
    return load_checkpoint(folder / "run" / "checkpoint.safetensors").extra[KEY]


def test_an_assigner_that_learned_shuffled_labels_is_called_useless(finished, capsys):
    content = json.loads((finished / "run" / "report.json").read_text())
    assert not content["good"]
    low, high = content["adaptive"]["interval"]
    assert low <= content["adaptive"]["gain_over_random"] <= high
    assert low <= 0
    capsys.readouterr()
    assert report.main([str(finished / "run")]) == 0
    assert capsys.readouterr().out.startswith(f"{finished / 'run'}: {content['verdict']}\n")


def test_the_curve_goes_from_the_shortest_to_the_longest_and_never_falls(finished):
    points = curve(finished)["points"]
    content = json.loads((finished / "run" / "report.json").read_text())
    costs, top1 = [point["gmacs"] for point in points], [point["top1"] for point in points]
    fixed = [row["gmacs"] for row in content["fixed"]]
    assert costs == sorted(costs)
    assert top1 == sorted(top1)
    assert (costs[0], costs[-1]) == pytest.approx((fixed[-1], fixed[0]), abs=1e-8)
    assert {points[0]["how"], points[-1]["how"]} == {"fixed"}
    inside = [point["interval"][0] <= point["top1"] <= point["interval"][1] for point in points]
    assert curve(finished)["fits"] == all(inside)
    assert content["calibration"]["points"] == points
    assert content["cascade"]["calibrated_on"] == "val"


@pytest.mark.parametrize("share", [0.03, 0.35, 0.6, 0.9])
def test_a_cost_that_was_asked_for_is_achieved(finished, share, capsys):
    points = curve(finished)["points"]
    gmacs = points[0]["gmacs"] + share * (points[-1]["gmacs"] - points[0]["gmacs"])
    status, content = evaluate(finished, "--budget", f"gmacs:{gmacs:.6f}")
    assert status == 0
    budget = content["budget"]
    assert budget["predicted"]["gmacs"] == pytest.approx(gmacs, rel=1e-3)
    assert budget["achieved"]["gmacs"] == pytest.approx(gmacs, rel=0.03)
    assert budget["achieved"]["gmacs"] == content["adaptive"]["gmacs"]
    said = capsys.readouterr().out.splitlines()[-1]
    assert re.match(r"budget gmacs:\S+: predicted .* GMACs top-1 .*; achieved .* GMACs top-1", said)


def test_budgets_of_loss_and_time_and_from_the_configuration(finished):
    status, content = evaluate(finished, "model.budget=drop:100")
    assert status == 0
    assert content["adaptive"]["share"]["3x3"] == 1
    # No assigner to pay for.
    assert content["adaptive"]["gmacs"] == pytest.approx(content["fixed"][-1]["gmacs"], rel=1e-6)
    status, content = evaluate(finished, "--budget", "drop:0")
    assert content["budget"]["predicted"]["top1"] == curve(finished)["points"][-1]["top1"]
    assert not content["budget"]["held"]
    status, content = evaluate(finished, "--budget", "ms:1e9")
    assert (status, content) == (2, None)


def test_without_a_budget_everything_is_as_before(finished):
    first = json.loads((finished / "run" / "report.json").read_text())
    status, content = evaluate(finished)
    assert status == 0
    assert "budget" not in content
    keys = ("top1", "gmacs", "share", "gain_over_random", "interval")
    assert [content["adaptive"][key] for key in keys] == [first["adaptive"][key] for key in keys]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("gmacs:5", "out of reach"),
        ("gmacs:0.00001", "out of reach"),
        ("banana", "is no budget"),
        ("gmacs:-1", "is no budget"),
        ("drop:nan", "is no budget"),
        ("watts:3", "is no budget"),
    ],
)
def test_what_cannot_be_had_names_what_can(finished, budget, expected, capsys):
    low, high = (curve(finished)["points"][place]["gmacs"] for place in (0, -1))
    status, content = evaluate(finished, "--budget", budget)
    said = capsys.readouterr().err
    assert (status, content) == (2, None)
    assert expected in said
    assert f"gmacs:{low:.4g} to gmacs:{high:.4g}" in said
    assert "Traceback" not in said


def test_a_wrong_budget_in_a_configuration_is_found_with_its_key(finished, capsys):
    assert evaluate(finished, "model.budget=banana")[0] == 2
    assert "model.budget" in capsys.readouterr().err


def test_predict_keeps_a_budget(finished, capsys):
    points = curve(finished)["points"]
    gmacs = (points[0]["gmacs"] + points[-1]["gmacs"]) / 2
    out = finished / "said.json"
    pictures = str(finished / "run" / "data" / "test")
    arguments = ["--checkpoint", str(finished / "run"), pictures, "--budget", f"gmacs:{gmacs:.6f}"]
    assert predict.main([*arguments, "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    budget = rows[0]["budget"]
    mean = sum(row["gmacs"] for row in rows) / len(rows)
    assert budget["achieved"]["inputs"] == len(rows) == 240
    assert budget["achieved"]["gmacs"] == pytest.approx(mean, rel=1e-6)
    assert mean == pytest.approx(gmacs, rel=0.03)
    assert "predicted" in capsys.readouterr().err.splitlines()[-1]
    assert predict.main([*arguments, "--grid", "3x3"]) == 2
    assert predict.main([*arguments[:3], "--budget", "banana"]) == 2
    assert "this checkpoint reaches gmacs:" in capsys.readouterr().err


def test_budgets_are_kept_by_both_tools(finished, capsys):
    out = finished / "budgets.json"
    run = ["--run", str(finished / "run"), "--json", str(out)]
    usual = budgets.usual_budgets(finished / "run")
    assert [budget.split(":")[0] for budget in usual] == [*["gmacs"] * 5, "drop", "drop"]
    assert budgets.main([*run, "--budgets", usual[2]]) == 0
    assert usual[2] in capsys.readouterr().out
    (row,) = json.loads(out.read_text())
    assert row["samples"] == 240
    assert row["test_gmacs"] == pytest.approx(row["predicted_gmacs"], rel=0.03)
    assert row["predict_gmacs"] == pytest.approx(row["predicted_gmacs"], rel=0.03)
    assert row["predict_top1"] == pytest.approx(row["test_top1"], abs=5)
    assert budgets.main([*run, "--budgets", "gmacs:100"]) == 2
    assert "out of reach" in capsys.readouterr().err
    assert budgets.main(["--run", str(finished)]) == 2
    assert "no data/test in it" in capsys.readouterr().err


def test_a_checkpoint_without_a_curve_says_how_to_get_one(finished, tmp_path, capsys):
    checkpoint = load_checkpoint(finished / "run" / "checkpoint.safetensors")
    kept = {key: value for key, value in checkpoint.extra.items() if key not in (KEY, "cascade")}
    save_checkpoint(tmp_path / "old.safetensors", replace(checkpoint, extra=kept))
    old = str(tmp_path / "old.safetensors")
    picture = str(next((finished / "run" / "data" / "test").rglob("*.png")))
    assert predict.main(["--checkpoint", old, picture]) == 0
    capsys.readouterr()
    assert predict.main(["--checkpoint", old, picture, "--budget", "drop:1"]) == 2
    assert "train_net.py --cfg FILE.yaml --stage calibrate" in capsys.readouterr().err
    status = tool_test_net.main(["--cfg", str(finished / "config.yaml"), "--checkpoint", old, "--budget", "drop:1"])
    assert status == 2
    damaged = {**checkpoint.extra, KEY: {**checkpoint.extra[KEY], "points": []}}
    save_checkpoint(tmp_path / "old.safetensors", replace(checkpoint, extra=damaged))
    assert predict.main(["--checkpoint", old, picture]) == 0
    assert predict.main(["--checkpoint", old, picture, "--budget", "drop:1"]) == 2
    assert "points" in capsys.readouterr().err


def test_a_run_goes_on_where_only_the_budget_is_new(finished, capsys):
    path = str(finished / "config.yaml")
    points = curve(finished)["points"]
    gmacs = (points[0]["gmacs"] + points[-1]["gmacs"]) / 2
    assert train_net.main(["--cfg", path, f"model.budget=gmacs:{gmacs:.6f}"]) == 0
    said = capsys.readouterr().err
    for stage in ("model", "lengths", "assigner", "calibrate"):
        assert f"{stage}: already done" in said
    assert "evaluate: done again, settings changed (budget: None -> gmacs" in said
    content = json.loads((finished / "run" / "report.json").read_text())
    assert content["budget"]["achieved"]["gmacs"] == pytest.approx(gmacs, rel=0.03)
    assert train_net.main(["--cfg", path]) == 0


def test_no_calibration_no_stage(finished, capsys):
    path = str(finished / "config.yaml")
    assert train_net.main(["--cfg", path, "--stage", "calibrate", "calibration=null"]) == 2
    assert "calibration.split" in capsys.readouterr().err
