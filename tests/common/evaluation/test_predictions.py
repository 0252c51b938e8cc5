"""The table of predictions: a row for every sample, told apart where several are parts of one file."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import torch

from revit.common.data.broken import Failure
from revit.common.data.lists import SampleList
from revit.common.evaluation.evaluate import Answers, Evaluation
from revit.common.evaluation.predictions import write_predictions
from revit.common.report.samples import sample_parts


def written(tmp_path, samples: SampleList) -> list[dict[str, str]]:
    logits = torch.tensor([[[2.0, 0.0]], [[3.0, 0.0]]])
    answers = {"2x2": Answers(logits, torch.zeros(2, 1, dtype=torch.long), 1.0)}
    evaluation = Evaluation(torch.tensor([0, 2]), torch.tensor([0, 1]), answers, [Failure(1, "long.mp4", "cut off")])
    write_predictions(tmp_path / "p.csv", evaluation, ["2x2"], samples, ["walk", "run"], "logits")
    with open(tmp_path / "p.csv", newline="") as file:
        return list(csv.DictReader(file))


WHOLE = SampleList.build([("long.mp4", 0), ("long.mp4", 1), ("long.mp4", 1)], ("walk", "run"), "list")


def test_parts_of_one_file_are_told_apart(tmp_path):
    samples = replace(WHOLE, segments=np.array([[0, 2.5], [2.5, 4], [4, np.inf]]))
    rows = written(tmp_path, samples)
    assert [(row["start"], row["end"]) for row in rows] == [("0.0", "2.5"), ("2.5", "4.0"), ("4.0", "inf")]
    assert [(row["correct"], row["error"]) for row in rows] == [("1", ""), ("", "cut off"), ("0", "")]
    shown = [row["path"] for row in sample_parts(rows)["samples"]]
    assert shown == ["long.mp4 [2.5-4]", "long.mp4 [4-inf]", "long.mp4 [0-2.5]"]


def test_whole_files_have_no_times(tmp_path):
    assert "start" not in written(tmp_path, WHOLE)[0]
