"""Token-length labels on held-out folds, a threshold from calibration and a grid in the assigner's place, on small runs."""

from __future__ import annotations

import csv
import json
import re
import shutil

import predict
import pytest
import report as report_tool
import test_net as tool_test_net
import train_net
from marked_pictures import write_marked
from modalities import load_run
from tiny_run import write_config

from revit.common.methods.revit.rule import KEY
from revit.common.system.distributed import ALONE
from revit.common.system.errors import Stopped
from revit.common.training import lengths
from revit.common.training.stages import Run
from revit.common.weights.checkpoint import load_checkpoint, save_checkpoint

NUM_TRAIN = 60
LITTLE = ["lengths.folds=3", "train.schedule.epochs=1"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A configuration whose pictures are made."""
    path = write_config(tmp_path_factory.mktemp("little"), NUM_TRAIN, 60, 60)
    assert train_net.main(["--cfg", str(path), "--stage", "data"]) == 0
    return path


@pytest.fixture(scope="module")
def sources(config):
    """The same pictures as lists of their own, on which a run needs no stage that makes data."""
    data = config.parent / "run" / "data"
    text = config.read_text()
    path = config.with_name("lists.yaml")
    path.write_text(text.replace(text[text.index("  demo:") : text.index("  pixels:")], ""))
    return path, {
        "prefix": data,
        "label_names": data / "classes.txt",
        **{split: data / f"{split}.csv" for split in ("train", "val", "test")},
    }


def train(sources, folder, *arguments, **lists):
    path, known = sources
    given = [f"data.source.{name}={file}" for name, file in (known | lists).items()]
    return train_net.main(["--cfg", str(path), f"run.dir={folder}", *given, *LITTLE, *arguments])


def rows(folder):
    with (folder / "lengths.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(sources, tmp_path_factory):
    """A run with everything; its calibration lets a grid take the assigner's place."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train(sources, folder, "assigner.confidence=auto", "calibration.drop_assigner=true") == 0
    return folder


def test_each_fold_is_labelled_by_the_recipe_on_the_others(sources, finished, tmp_path):
    """Another way to the same labels: a run on a list without the fold, which labels the fold as its val list."""
    found = rows(finished)
    assert [int(row["id"]) for row in found] == list(range(NUM_TRAIN))
    book = json.loads((finished / "stages.json").read_text())
    assert not (finished / "states" / "lengths").exists()
    assert book["lengths"]["done"]
    log = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in log if line["event"] == "start"} >= {f"lengths/fold{n}" for n in (1, 2, 3)}

    path, known = sources
    given = [f"data.source.{name}={file}" for name, file in known.items()]
    held = lengths.folds(Run(*load_run(path, [*given, *LITTLE]), ALONE))
    assert sorted(position for _, fold in held for position in fold.tolist()) == list(range(NUM_TRAIN))
    lines = sources[1]["train"].read_text().splitlines()
    for number, (rest, fold) in enumerate(held[:2]):
        assert not set(rest.tolist()) & set(fold.tolist())
        lists = {}
        for split, positions in (("train", rest), ("val", fold)):
            lists[split] = tmp_path / f"{split}{number}.csv"
            lists[split].write_text("".join(f"{lines[position]}\n" for position in positions))
        folder = tmp_path / f"alone{number}"
        for stage in ("model", "lengths"):
            assert train(sources, folder, "--stage", stage, "lengths.folds=0", "lengths.split=val", **lists) == 0
        columns = ("target", "length", "correct_6x6", "correct_4x4", "correct_3x3")
        alone = [[row[name] for name in columns] for row in rows(folder)]
        assert alone == [[found[position][name] for name in columns] for position in fold]
        assert [row["path"] for row in rows(folder)] == [found[position]["path"] for position in fold]


def test_a_stopped_stage_goes_on_with_the_fold_it_was_at(sources, finished, tmp_path, monkeypatch):
    trained, labelled, stop_at = [], [], 2
    fitted, label = lengths.fitted, lengths._labelled

    def noted(run, name, *arguments):
        trained.append(name)
        return fitted(run, name, *arguments)

    def stopped(*arguments):
        labelled.append(arguments[1].name)
        if len(labelled) == stop_at:
            raise Stopped("stopped by SIGTERM")
        return label(*arguments)

    monkeypatch.setattr(lengths, "fitted", noted)
    monkeypatch.setattr(lengths, "_labelled", stopped)
    wanted = ["assigner.confidence=auto", "calibration.drop_assigner=true"]
    assert train(sources, tmp_path / "run", *wanted) == 75
    assert trained == ["lengths/fold1", "lengths/fold2"]
    assert sorted(path.name for path in (tmp_path / "run" / "states" / "lengths").iterdir()) == [
        "fold1.csv",
        "fold2",
        "fold2.safetensors",
    ]
    assert train(sources, tmp_path / "run", *wanted) == 0
    assert trained == ["lengths/fold1", "lengths/fold2", "lengths/fold3"]
    assert labelled == [f"fold{number}.safetensors" for number in (1, 2, 2, 3)]
    assert rows(tmp_path / "run") == rows(finished)
    # Folds leave the later stages as they are: the assigner is that of the run that was not stopped.
    one, other = (load_checkpoint(folder / "checkpoint.safetensors") for folder in (tmp_path / "run", finished))
    assert one.extra[KEY] == other.extra[KEY]


def test_what_folds_cannot_be_made_of_is_said_before_training(sources, tmp_path, capsys):
    few = tmp_path / "few.csv"
    few.write_text(
        "".join(f"{line}\n" for line in sources[1]["train"].read_text().splitlines()[:10])
    )  # one of each class
    assert train(sources, tmp_path / "run", train=few) == 2
    assert "all samples of each class are of one source, so none can be held out" in capsys.readouterr().err
    assert train(sources, tmp_path / "run", "lengths.folds=11", train=few) == 2
    assert "too few for 11 folds; lower lengths.folds" in capsys.readouterr().err
    assert train(sources, tmp_path / "run", "lengths.split=val") == 2
    assert "folds are parts of the training list, and split is val" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_samples_of_a_class_that_no_other_source_has_are_left_out(sources, tmp_path, capsys):
    lines = sources[1]["train"].read_text().splitlines()
    ones = [line for line in lines if line.endswith((" 1", ",1"))]
    assert len(ones) > 1
    kept = [line for line in lines if line not in ones[1:]]
    short = tmp_path / "short.csv"
    short.write_text("".join(f"{line}\n" for line in kept))
    folder = tmp_path / "run"
    for stage in ("model", "lengths"):
        assert train(sources, folder, "--stage", stage, train=short) == 0
    assert "(3 folds), 1 left out, as no other source has their class: " in capsys.readouterr().err
    assert [int(row["id"]) for row in rows(folder)] == [n for n, line in enumerate(kept) if line != ones[0]]
    assert train(sources, folder, "--stage", "assigner", train=short) == 0


def test_a_calibration_that_is_needed_needs_its_list(sources, tmp_path, capsys):
    path, known = sources
    given = [f"data.source.{name}={file}" for name, file in known.items() if name != "val"]
    for wanted in ("assigner.confidence=auto", "calibration.drop_assigner=true"):
        arguments = ["--cfg", str(path), f"run.dir={tmp_path / 'run'}", *given, "run.evaluate_every=null"]
        assert train_net.main([*arguments, wanted]) == 2
        assert "data.source.val" in capsys.readouterr().err


def test_the_grid_that_takes_the_assigners_place_is_used_and_said(sources, finished, tmp_path, capsys):
    """A model of one epoch knows nothing, so the shortest grid is as good as any."""
    rule = load_checkpoint(finished / "checkpoint.safetensors").extra[KEY]
    grid = rule["fixed"]["grid"]
    report = json.loads((finished / "report.json").read_text())
    assert report[KEY]["said"].startswith(f"no assigner: {grid} for every input; on val (60 samples)")
    assert report["verdict"].endswith(report[KEY]["said"])
    assert report_tool.main([str(finished), "--html", str(tmp_path / "page.html")]) == 0
    assert f"no assigner: {grid} for every input" in (tmp_path / "page.html").read_text()
    fixed = {row["grid"]: row for row in report["fixed"]}
    assert report["adaptive"]["share"][grid] == 1
    assert report["adaptive"]["top1"] == fixed[grid]["top1"]
    assert report["adaptive"]["gmacs"] == pytest.approx(fixed[grid]["gmacs"])  # no assigner to pay for
    pictures = [str(finished.parent), str(sources[1]["prefix"] / "test")]
    shutil.copy(finished / "checkpoint.safetensors", tmp_path)
    arguments = [
        "--checkpoint",
        str(tmp_path / "checkpoint.safetensors"),
        pictures[1],
        "--json",
        str(tmp_path / "a.json"),
    ]
    capsys.readouterr()
    assert predict.main(arguments) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "no assigner" in line] == [report[KEY]["said"]]
    assert {tuple(one["grids"]) for one in json.loads((tmp_path / "a.json").read_text())} == {(grid,)}
    assert predict.main([*arguments, "--grid", "6x6"]) == 0
    assert "no assigner" not in capsys.readouterr().err
    assert predict.main([*arguments, "--budget", "drop:0"]) == 0
    assert "no assigner" not in capsys.readouterr().err


def test_test_net_uses_what_its_configuration_wants_of_it(sources, finished, tmp_path, capsys):
    path, known = sources
    given = ["--cfg", str(path), "--checkpoint", str(finished), "--json", str(tmp_path / "out.json")]
    given += [f"data.source.{name}={file}" for name, file in known.items()]

    def tested(*wanted):
        assert tool_test_net.main([*given, *wanted]) == 0
        return json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().out

    first = json.loads((finished / "report.json").read_text())
    fixed, said = tested("assigner.confidence=auto", "calibration.drop_assigner=true")
    assert (fixed[KEY], fixed["adaptive"]["top1"]) == (first[KEY], first["adaptive"]["top1"])
    assert "no assigner: " in said.splitlines()[0]
    auto, said = tested("assigner.confidence=auto")
    assert auto["adaptive"]["assigner_gmacs"] > 0
    assert auto[KEY]["said"].startswith("assigner.confidence ")
    assert auto[KEY]["said"] in said
    plain, _ = tested()
    assert KEY not in plain
    assert plain["adaptive"]["assigner_gmacs"] > 0


def test_auto_is_not_guessed_where_it_was_not_calibrated(sources, finished, tmp_path, capsys):
    path, known = sources
    checkpoint = load_checkpoint(finished / "checkpoint.safetensors")
    del checkpoint.extra[KEY]
    save_checkpoint(tmp_path / "old.safetensors", checkpoint)
    given = [f"data.source.{name}={file}" for name, file in known.items()]
    arguments = ["--cfg", str(path), "--checkpoint", str(tmp_path / "old.safetensors"), *given]
    assert tool_test_net.main([*arguments, "assigner.confidence=auto"]) == 2
    assert "train_net --stage calibrate does it" in capsys.readouterr().err
    picture = str(next((sources[1]["prefix"] / "test").rglob("*.png")))
    assert predict.main(["--checkpoint", str(tmp_path / "old.safetensors"), picture]) == 2
    assert "train_net --stage calibrate does it" in capsys.readouterr().err
    assert predict.main(["--checkpoint", str(tmp_path / "old.safetensors"), picture, "--grid", "3x3"]) == 0


def test_samples_of_several_labels_are_held_out_too(tmp_path, capsys):
    """Fold by fold with class thresholds of their own, as the run's model has them; what says nothing can be right, too."""
    for number, split in enumerate(("train", "val", "test")):
        write_marked(tmp_path, split, 40, seed=number)
    path = write_config(tmp_path, 1, 1, 1)
    lists = ", ".join(f"{split}: {tmp_path / split}.csv" for split in ("train", "val", "test"))
    text = path.read_text()
    start, end = text.index("  demo:"), text.index("  pixels:")
    path.write_text(f"{text[:start]}  source: {{{lists}, several_labels: true}}\n{text[end:]}")
    wanted = ["lengths.folds=2", "train.batch_size=8", "assigner.confidence=auto", "calibration.drop_assigner=true"]
    assert train_net.main(["--cfg", str(path), *wanted]) == 0
    said = capsys.readouterr().err
    assert (
        said.count("thresholds: from 0.5 for every class to those best on val") == 3
    )  # the run's model's and two folds'
    found = rows(tmp_path / "run")
    assert [int(row["id"]) for row in found] == list(range(40))
    assert any(";" in row["target"] for row in found)
    rule = json.loads((tmp_path / "run" / "report.json").read_text()).get(KEY)
    calibrated = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").extra[KEY]
    assert calibrated["assigner"]["top1"] >= calibrated["longest_top1"] - 0.5 - 1e-6
    assert rule is not None
    assert str(calibrated["num_samples"]) in rule["said"]


def test_a_recipe_that_keeps_the_best_model_keeps_that_of_each_fold(sources, tmp_path, capsys):
    keeps = ["run.keep=best", "run.evaluate_every=1", "train.schedule.epochs=2", "lengths.folds=2"]
    for stage in ("model", "lengths"):
        assert train(sources, tmp_path / "run", *keeps, "--stage", stage) == 0
    said = capsys.readouterr().err
    for name in ("model", "lengths/fold1", "lengths/fold2"):
        assert re.search(rf"{name}: keeps the one after epoch [12], the best on val", said)
    assert (tmp_path / "run" / "best.safetensors").exists()  # the model's own, not a fold's
    assert not (tmp_path / "run" / "states" / "lengths").exists()
    assert len(rows(tmp_path / "run")) == NUM_TRAIN
