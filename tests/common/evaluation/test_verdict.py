"""Verdicts say in plain words what a run is worth and what to do; the worst news counts."""

from __future__ import annotations

import pytest
import torch

from revit.common.costs.flops import Costs
from revit.common.evaluation.adaptive import adaptive_report, paired_interval
from revit.common.evaluation.evaluate import Answers, Evaluation
from revit.common.evaluation.verdict import verdict

COSTS = Costs({"6x6": 1.0, "3x3": 0.4}, 0.01, 1000, 10)
NUM = 300
TARGETS = torch.arange(NUM) % 3


def wrong_at(wrong):
    """Logits (N, 1, 3) that are right but where `wrong` says so."""
    said = torch.where(wrong, (TARGETS + 1) % 3, TARGETS)
    return torch.nn.functional.one_hot(said, 3).float()[:, None] * 9


def report_of(long, short, grid_index=None):
    """The report of an assigner that gives `grid_index`, on 300 clips of three classes; wrong answers by grid."""
    logits = {"6x6": wrong_at(long), "3x3": wrong_at(short)}
    index = torch.zeros(NUM, 1, dtype=torch.long) if grid_index is None else grid_index[:, None]
    if grid_index is not None:
        logits["adaptive"] = torch.where(grid_index[:, None, None] == 1, logits["3x3"], logits["6x6"])
    answers = {name: Answers(one, index, 1.0) for name, one in logits.items()}
    return adaptive_report(Evaluation(torch.arange(NUM), TARGETS, answers, []), COSTS, "logits", inputs="clips")


def every(number):
    return torch.arange(NUM) % number == 0


def test_all_at_the_longest_grid_where_the_shortest_is_as_good():
    report = report_of(every(10), every(10), torch.zeros(NUM, dtype=torch.long))
    assert report["verdict"] == (
        "The assigner gave every clip 6x6; 3x3 alone is as good (90.0 against 90.0 %; 95 % of the difference: -0.9 to +0.9 points) "
        "at 40 % of the cost: --grid 3x3"
    )
    assert not report["good"]


def test_a_grid_that_is_better_is_called_better():
    report = report_of(every(3), every(30), torch.zeros(NUM, dtype=torch.long))
    assert "3x3 alone is better (96.7 against 66.7 %" in report["verdict"]


def test_all_at_a_grid_that_is_needed():
    """The assigner alone is what can be saved."""
    report = report_of(every(10), every(2), torch.zeros(NUM, dtype=torch.long))
    assert report["verdict"].startswith("The assigner gave every clip 6x6; 6x6 for all is as good (90.0 against 90.0 %")
    assert report["verdict"].endswith("at 99 % of the cost: --grid 6x6")


def test_a_choice_that_is_no_choice():
    """Half of the clips at either grid, whatever they need: no fixed grid is as good and cheaper, and chance is as good."""
    report = report_of(every(10), every(2), torch.arange(NUM) // 2 % 2)
    assert report["verdict"].startswith("The assigner c")
    assert "chance on 300 clips" in report["verdict"]
    assert report["verdict"].endswith("--grid 6x6 (90.0 % at 100 %) or --grid 3x3 (50.0 % at 40 %)")
    assert not report["good"]


def test_an_assigner_that_pays():
    """Each clip that the short grid gets wrong goes to the long one."""
    report = report_of(every(30), every(2), (~every(2)).long())
    assert report["good"]
    assert report["verdict"].startswith(
        "The assigner pays: 96.7 % right at 71 % of the cost of 6x6 (+0.0 points); the same lengths"
    )
    assert report["adaptive"]["gain_over"]["3x3"]["points"] == pytest.approx(100 * (0.5 - 1 / 30))


def test_gains_over_fixed_grids_are_paired():
    short, chosen = every(4), torch.arange(NUM) % 2
    report = report_of(every(10), short, chosen)
    adaptive_wrong = torch.where(chosen == 1, short, every(10))
    low, high = paired_interval(short.double() - adaptive_wrong.double())
    assert report["adaptive"]["gain_over"]["3x3"]["interval"] == pytest.approx([100 * low, 100 * high])


def test_a_model_that_guesses_is_told_before_all_else():
    report = report_of(TARGETS > 0, TARGETS > 0, torch.zeros(NUM, dtype=torch.long))
    assert report["chance"] == pytest.approx(100 / 3)
    assert report["verdict"].startswith(
        "The model knows no more than a guess: at best 33.3 % of 300 clips right, always saying the"
    )
    for way in ("--show-batch", "train.schedule.epochs", "start.source"):
        assert way in report["verdict"]
    assert not report["good"]


def test_chance_is_the_commonest_class():
    targets = torch.tensor([0] * 6 + [1] * 4)
    answers = {"6x6": Answers(torch.zeros(10, 1, 2), torch.zeros(10, 1, dtype=torch.long), 1.0)}
    evaluation = Evaluation(torch.arange(10), targets, answers, [])
    assert adaptive_report(evaluation, Costs({"6x6": 1.0}, 0.0, 10), "logits")["chance"] == pytest.approx(60)


def test_grids_without_an_assigner():
    report = report_of(every(10), every(10))
    assert report["verdict"].startswith(
        "top-1 90.00 % (95 %: 86.1 to 92.9) of 300 clips at 1 GMACs a view; always saying the"
    )
    assert report["verdict"].endswith("3x3 alone is as good (90.0 against 90.0 %) at 40 % of the cost: --grid 3x3")
    assert report["good"]
    assert "--grid" not in report_of(every(10), every(2))["verdict"]


def test_of_little_nothing_is_said():
    """What older runs wrote is enough."""
    content = {"fixed": [{"grid": "6x6", "top1": 50.0, "gmacs": 1.0}], "samples": {"evaluated": 0, "failed": 1}}
    assert verdict(content) == ("top-1 50.00 % (95 %: 0.0 to 100.0) of 0 samples at 1 GMACs a view", True)
