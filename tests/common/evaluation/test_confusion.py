"""Confusion of classes and of lengths against counting by hand, and curves from a log that was interrupted."""

from __future__ import annotations

import json

import pytest
import torch
from made_runs import made_record

from revit.common.evaluation.record import assigned_against_needed, by_length, confused_pairs, confusion, per_class
from revit.common.report.summary import MOST_POINTS, read_training


def test_classes():
    record = made_record()
    table = confusion(record)
    answers = list(zip(record.targets.tolist(), record.predictions["adaptive"].tolist()))
    for target in range(5):
        for answer in range(5):
            assert table[target, answer] == answers.count((target, answer))
    rows = per_class(record)
    assert [row["top1"] for row in rows] == sorted(row["top1"] for row in rows)
    assert sum(row["top1"] * row["samples"] for row in rows) == pytest.approx(
        100 * int(record.correct("adaptive").sum())
    )
    pairs = confused_pairs(record, most=100)
    found = {(record.label_names.index(row["class"]), record.label_names.index(row["answered"])): row for row in pairs}
    assert len(found) == len(pairs)
    assert sum(row["samples"] for row in pairs) == int((~record.correct("adaptive")).sum())
    for (target, answer), row in found.items():
        assert target != answer
        assert row["samples"] == table[target, answer]
        assert row["share"] == pytest.approx(100 * float(table[target, answer] / table[target].sum()))
    assert [row["samples"] for row in pairs] == sorted((row["samples"] for row in pairs), reverse=True)


def test_classes_without_samples_and_without_mistakes():
    record = made_record(num=6, classes=3)
    right = dict.fromkeys(record.predictions, record.targets)
    perfect = type(record)(
        ("a", "b", "c", "none"), record.grids, record.ids, record.targets, right, record.probabilities
    )
    assert confused_pairs(perfect) == []
    assert [row["class"] for row in per_class(perfect)] == ["a", "b", "c"]


@pytest.mark.parametrize("views", [1, 3])
def test_lengths(views):
    record = made_record(views=views)
    record.grid_index[::7, -1] = 0
    rows = by_length(record)
    assert sum(row["inputs"] for row in rows) == 200 * views
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    table = assigned_against_needed(record)
    for position, row in enumerate(rows):
        inputs = [
            (sample, view)
            for sample in range(200)
            for view in range(views)
            if record.grid_index[sample, view] == position
        ]
        assert row["inputs"] == len(inputs)
        for grid in record.grids:
            right = [bool(record.correct(grid)[sample]) for sample, _ in inputs]
            assert row["top1_at"][grid] == pytest.approx(100 * sum(right) / len(right))
        needed = [0, 0, 0]
        for sample, _ in inputs:
            short, long = bool(record.correct("3x3")[sample]), bool(record.correct("6x6")[sample])
            needed[1 if short else 0 if long else 2] += 1
        assert table[row["length"]] == needed


def test_a_length_that_was_never_given():
    record = made_record()
    record.grid_index.zero_()
    long, short = by_length(record)
    assert (long["inputs"], short["inputs"]) == (200, 0)
    assert short["top1"] is None
    assert short["top1_at"] == {"6x6": None, "3x3": None}
    assert by_length(made_record(assigner=False)) == []
    assert assigned_against_needed(made_record(assigner=False)) == {}


def test_curves_of_an_interrupted_run(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = [{"event": "train", "stage": "model", "update": 10 * n, "lr": 0.1, "loss": {"6x6": n}} for n in range(5)]
    again = {"event": "train", "stage": "model", "update": 30, "lr": 0.2, "loss": {"6x6": 7.0}}
    odd = [
        {"event": "val", "epoch": 1, "error": "no samples"},
        {"event": "val", "epoch": 2, "top1": {"6x6": 50, "3x3": None}},
        {"event": "train", "stage": 3, "update": 1, "loss": {"6x6": 1}},
        {"event": "train", "stage": "model", "update": None, "loss": {"6x6": 1}},
        {"event": "stage", "stage": "model", "seconds": 3},
        ["no", "object"],
    ]
    text = "\n".join(map(json.dumps, [*lines, again, *odd]))
    log.write_text(text + '\n{"event": "train", "stage": "mod\n' + '{"event": "val", "epoch": 3, "top1": {"6x6": NaN}}')
    (training,) = read_training(log).values()
    assert training.loss == {"6x6": [(0, 0), (10, 1), (20, 2), (30, 7), (40, 4)]}
    assert training.learning_rate[3] == (30, 0.2)
    assert training.top1 == {"6x6": [(2, 50)]}
    assert read_training(tmp_path / "none") == {}


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = (
        json.dumps({"event": "train", "stage": "model", "update": n, "lr": 0.1, "loss": {"6x6": n}})
        for n in range(5003)
    )
    log.write_text("\n".join(lines))
    curve = read_training(log)["model"].loss["6x6"]
    assert len(curve) <= MOST_POINTS + 1
    assert curve[0] == (0, 0)
    assert curve[-1] == (5002, 5002)
    assert torch.tensor(curve).diff(dim=0).min() > 0
