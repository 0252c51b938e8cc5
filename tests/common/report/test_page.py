"""The page: nothing in it points outside, every picture and drawing is whole, and the first line says what matters."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import report
import torch
from made_runs import content_of, made_record, save_run, speed_row, with_pictures
from page_check import check

from revit.common.evaluation.record import IN_RUN, EvaluationRecord
from revit.common.report.markdown import markdown
from revit.common.report.page import render
from revit.common.report.runs import RunReport, read_runs
from revit.common.report.summary import as_json, summarize


@pytest.mark.parametrize("frames", [1, 4])
def test_a_whole_page(tmp_path, frames):
    run = save_run(tmp_path / "runs <a>", with_pictures(made_record(), frames))
    page = check(render([summarize(run)]))
    assert page.source.count("<svg") == 1 + 2 + 3 + 2  # compute, time, model, assigner
    summary = summarize(run)
    assert summary.missing == ()
    assert len(page.images) == frames * len(summary.record.examples) > 0
    for wanted in (
        *("6x6", "3x3", "adaptive", "random", "oracle", "clips/<b>odd</b>.mp4: empty file", "class <3>"),
        *("200 samples evaluated, 3 views each, 1 failed, seed 0", "none right", "assigner", "GFLOPs a view"),
        *("Clips of one view on cpu (1 threads)", "version of torch", "2.11", "of them assigner"),
    ):
        assert wanted in page.text
    assert ("Of every clip some frames" in page.text) == (frames > 1)
    assert len(page.source) < 3e6


def test_the_first_line_says_what_the_assigner_is_worth(tmp_path):
    good = save_run(tmp_path / "good", log=False)
    page = check(render([summarize(good)]))
    assert page.texts[0] == str(tmp_path / "good")
    assert page.texts[2] == good.judged.text
    assert page.texts[2].startswith("The assigner pays: ")
    assert '<p class="verdict bad">' not in page.source
    record = made_record(useful=False)
    content = content_of(record)
    content["random"]["top1"] = content["adaptive"]["top1"] - 0.5
    bad = save_run(tmp_path / "bad", record, content, log=False)
    page = check(render([summarize(bad)]))
    assert page.texts[2].startswith("The assigner cannot be told from chance on 200 clips")
    assert "(+0.5 points for the assigner" in page.texts[2]
    assert '<p class="verdict bad">' in page.source


def test_a_saving_that_does_not_reach_the_clock_is_told(tmp_path):
    content = content_of(made_record())
    run = save_run(tmp_path / "a", made_record(), content)
    assert run.time_verdict == (
        "Measured on cpu (1 threads), the adaptive pass takes 80 % of the time of 6x6 for one input alone and 80 % in the best batch"
    )
    for row in content["speed"]["rows"]:
        if row["grid"] == "adaptive":
            row["per_second"] /= 2
    run = save_run(tmp_path / "a", made_record(), content, log=False)
    assert run.time_verdict.startswith("The saving does not reach the clock: measured")
    assert run.time_verdict.endswith("--grid 6x6")
    assert run.time_verdict in check(render([summarize(run)])).text


def test_several_runs_stand_side_by_side(tmp_path):
    runs = [save_run(tmp_path / name, log=name == "a b") for name in ("a b", "a_b")]
    page = check(render([summarize(run) for run in runs]))
    assert page.source.count("<svg") == 1 + 8 + 3
    assert "NOT COMPARABLE" not in page.text
    other = made_record(num=300, assigner=False)
    runs.append(save_run(tmp_path / "c", other, log=False))
    page = check(render([summarize(run) for run in runs]))
    assert "NOT COMPARABLE" in page.text
    assert "Runs of protocol A" in page.text
    assert "Runs of protocol B" not in page.text  # there is one


def test_one_way_to_answer_is_no_plot(tmp_path):
    """Nor are the policies explained that the run has not."""
    row = {"grid": "6x6", "top1": 50.0, "gmacs": 1.0}
    speed = {"device": "cpu", "dtype": "float32", "rows": [speed_row("6x6", 1, 10.0)]}
    content = {"fixed": [row], "samples": {"evaluated": 10, "failed": 0}, "speed": speed}
    page = check(render([summarize(RunReport("nowhere", content))]))
    assert "<svg" not in page.source
    assert "Measured speed" in page.text
    for word in ("oracle", "adaptive", "cascade"):
        assert word not in page.text.lower()


def test_a_run_of_one_length(tmp_path):
    record = made_record(assigner=False)
    run = save_run(tmp_path / "plain", record)
    page = check(render([summarize(run)]))
    assert page.texts[2].startswith("top-1 ")
    assert "right answers at" not in page.text
    assert "Answers at 6x6" in page.text
    assert summarize(run).missing == ()


def test_older_runs_get_a_page_and_a_sentence(tmp_path):
    content = content_of(made_record())
    old = {key: content[key] for key in ("fixed", "adaptive", "random", "oracle", "samples")}
    run = save_run(tmp_path / "old", made_record(), old, log=False)
    (tmp_path / "old" / IN_RUN).unlink()
    page = check(render([summarize(run)]))
    assert len(summarize(run).missing) == 3
    assert "evaluations of earlier versions did not write it" in page.text
    assert "No training curves" in page.text
    assert "--measure" in page.text
    assert len(summarize(RunReport("nowhere", old)).missing) == 1
    check(render([summarize(RunReport("nowhere", old))]))


def test_what_is_of_another_evaluation_is_not_shown(tmp_path):
    content = content_of(made_record())
    content["fixed"][1]["top1"] += 0.5
    summary = summarize(save_run(tmp_path / "a", made_record(), content))
    assert summary.record is None
    assert "of another evaluation than report.json" in check(render([summary])).text


ODD = "_<b>$\\frac{$ & \"x' $y$ \u65e5\u672c"


def test_names_are_shown_as_they_are(tmp_path):
    """Markup, mathematics and what a legend would leave out, in names of runs, classes, stages and losses."""
    record = made_record()
    record = replace(record, label_names=tuple(f"{ODD}{number}" for number in range(len(record.label_names))))
    content = content_of(record)
    content |= {"model": ODD, "method": ODD, "verdict": ODD, "good": True, "protocol": {ODD: {ODD: ODD}}}
    content["speed"]["device"] = ODD
    runs = [save_run(tmp_path / f"{ODD} {number}", with_pictures(record), content) for number in range(2)]
    line = {"event": "train", "stage": ODD, "update": 1, "lr": 1e-3, "loss": {ODD: 1.0, "_": 2.0}}
    for run in runs:
        with (run.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
    summaries = [summarize(run) for run in runs]
    page = check(render(summaries))
    assert {"b", "frac", "i"}.isdisjoint(page.tags)
    for text in (f"{ODD}0", f"Training: {ODD}", f"{tmp_path}/{ODD} 0", f"{ODD}.{ODD}"):
        assert text in page.text
    legends = [text for text in page.texts if text.lstrip("\u200b").startswith(("_", str(tmp_path)))]
    assert any(text == f"\u200b{ODD}" for text in legends)
    json.dumps(as_json(summaries), allow_nan=False)
    assert "<b>" not in re.sub(r"\\<", "", markdown(summaries))


def test_what_reaches_the_clock_is_the_second_line(tmp_path):
    run = save_run(tmp_path / "a")
    page = check(render([summarize(run)]))
    assert page.texts[2:4] == [run.judged.text, run.time_verdict]
    content = content_of(made_record())
    content["speed"]["rows"] = [row for row in content["speed"]["rows"] if row["batch"] > 1]
    run = save_run(tmp_path / "a", made_record(), content)
    assert run.time_verdict.endswith("the adaptive pass takes 80 % of the time of 6x6 in the best batch")


def test_a_table_of_budgets(tmp_path):
    content = content_of(made_record())
    points = [
        {"gmacs": gmacs, "top1": 60 + gmacs, "interval": [50.0, 70.0], "share": {"6x6": gmacs, "3x3": 1 - gmacs}, "how": how}
        for gmacs, how in ((0.0, "fixed"), *((number / 30, "assigner") for number in range(1, 30)), (1.0, "fixed"))
    ]  # fmt: skip
    content["calibration"] = {"split": "val", "num_samples": 77, "points": points}
    page = check(render([summarize(save_run(tmp_path / "a", made_record(), content))]))
    assert "Budgets that can be asked for" in page.text
    assert "all at 3x3" in page.text
    assert "all at 6x6" in page.text
    assert "By the calibration on 77 samples of val" in page.text
    assert 8 < page.source.count("by the assigner: ") <= 14
    del points[3]["share"]
    assert "Budgets that" not in render([summarize(save_run(tmp_path / "a", made_record(), content))])


@pytest.mark.parametrize("num", [1, 2])
def test_hardly_any_samples(tmp_path, num):
    record = with_pictures(made_record(num=num, classes=2))
    page = check(render([summarize(save_run(tmp_path / "a", record))]))
    assert f"{num} samples evaluated" in page.text or f"{num} sample evaluated" in page.text


def test_a_damaged_file_is_told(tmp_path):
    run = save_run(tmp_path / "a")
    file = tmp_path / "a" / IN_RUN
    file.write_bytes(file.read_bytes()[:-20])
    assert "not what an evaluation saw" in check(render([summarize(run)])).text


@pytest.mark.parametrize("classes", [400, 1200])
def test_many_classes(tmp_path, classes):
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(5 * classes) % classes
    answers = torch.where(torch.rand(5 * classes, generator=generator) < 0.3, targets // 2, targets)
    names = tuple(f"a class with a long name, number {number}" for number in range(classes))
    probabilities = torch.ones(5 * classes)
    record = EvaluationRecord(
        names, ("6x6", "3x3"), torch.arange(5 * classes), targets, dict.fromkeys(("6x6", "3x3"), answers),
        dict.fromkeys(("6x6", "3x3"), probabilities),
    )  # fmt: skip
    page = check(render([summarize(save_run(tmp_path / "a", record))]))
    (picture,) = page.images
    assert int(picture["width"]) <= 1000
    assert f"The worst of {classes} classes" in page.text
    assert page.source.count("<table") == 6
    assert len(page.source) < 3e6


def test_cascade_and_budget_are_shown_where_they_are(tmp_path):
    content = copy.deepcopy(content_of(made_record()))
    curve = [{"gmacs": 0.3, "top1": 60.0}, {"gmacs": 0.8, "top1": 85.0}, {"gmacs": 1.3, "top1": 90.0}]
    content["cascade"] = {"top1": 85.0, "gmacs": 0.8, "share": {"6x6": 0.5, "3x3": 0.5}, "curve": curve}
    content["budget"] = {"asked": "gmacs:0.8", "predicted": {"gmacs": 0.8}, "range": [0.3, 1.3]}
    content["calibration"] = {"split": "val", "points": [*curve, {"gmacs": None}, 3]}
    page = check(render([summarize(save_run(tmp_path / "a", made_record(), content))]))
    assert "asked gmacs:0.8 predicted.gmacs 0.8 range 0.3, 1.3" in page.text
    assert "budgets, on val" in page.text
    assert page.source.count("cascade") > 2


def test_the_tool_writes_all_three(tmp_path, capsys):
    save_run(tmp_path / "run")
    out = {name: tmp_path / f"out.{name}" for name in ("html", "json", "markdown")}
    arguments = [part for name, path in out.items() for part in (f"--{name}", str(path))]
    assert report.main([str(tmp_path / "run"), *arguments]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{tmp_path / 'run'}: The assigner pays: ")
    check(out["html"].read_text())
    assert all(path.stat().st_size > 500 for path in out.values())
    assert [run.name for run in read_runs([tmp_path])] == [str(tmp_path / "run")]


def test_title_date_and_headline_numbers(tmp_path):
    content = content_of(made_record()) | {"chance": 25.0, "inputs": "clips"}
    run = save_run(tmp_path / "a", made_record(), content, log=False)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", summarize(run).date)  # of the file
    line = {"event": "stage", "stage": "evaluate", "time": 1772600767.5}
    (run.folder / "log.jsonl").write_text(json.dumps(line) + "\n")
    page = check(render([summarize(run)]))
    assert page.texts[0] == str(tmp_path / "a")
    assert page.texts[1].endswith("Evaluated 2026-03-04 05:06 UTC.")
    row = content["adaptive"]
    for wanted in (
        f"{row['top1']:.1f} %",
        "chance 25.0 %",
        f"cost {100 * row['gmacs']:.0f} %",
        "clips tested 200",
        "time of one input 8 ms",
    ):
        assert wanted in page.text


def test_mistakes_stand_beside_right_answers(tmp_path):
    record = made_record()
    page = check(render([summarize(save_run(tmp_path / "a", with_pictures(record)))]))
    wrong = [example for example in with_pictures(record).examples if not record.correct("adaptive")[example.row]]
    assert wrong
    assert page.source.count('<div class="cell mistakes">') == len(record.label_names)
    for example in wrong:
        said = record.label_names[int(record.predictions["adaptive"][example.row])]
        sure = 100 * float(record.probabilities["adaptive"][example.row])
        assert f"{said}, {sure:.0f} %" in page.text


def test_the_table_of_all_samples(tmp_path):
    """What could not be read and the surest mistakes are on top, and all are there without the script."""
    record = made_record()
    run = save_run(tmp_path / "a", record)
    text = render([summarize(run)])
    assert "Files are below data." in check(text).text
    (table,) = re.findall(r'aria-label="all samples">\s*<table class="sortable">(.*?)</table>', text, flags=re.DOTALL)
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", table)[1:]]
    assert len(rows) == 201
    assert rows[0] == ["odd.mp4", "class &lt;0&gt;", "empty file", "", "", "not read"]
    num_wrong = int((~record.correct("adaptive")).sum())
    assert [row[-1] for row in rows[1:]] == ["no"] * num_wrong + ["yes"] * (200 - num_wrong)
    sure = [float(row[3]) for row in rows[1 : 1 + num_wrong]]
    assert sure == sorted(sure, reverse=True)
    assert {row[4] for row in rows[1:]} == {"6x6", "3x3"}


@pytest.mark.parametrize("spoil", ["missing", "other", "short", "foreign"])
def test_predictions_of_another_evaluation_are_not_shown(tmp_path, spoil):
    run = save_run(tmp_path / "a")
    file = tmp_path / "a" / "predictions.csv"
    lines = file.read_text().splitlines(keepends=True)
    if spoil == "missing":
        file.unlink()
    elif spoil == "foreign":
        file.write_text("a,b\n1,2\n")
    else:
        file.write_text("".join(lines[:-5] if spoil == "short" else [one.replace(",1,", ",0,") for one in lines]))
    summary = summarize(run)
    assert summary.samples == ()
    page = check(render([summary]))
    assert "No table of all samples: " in page.text
    assert "All samples" not in page.text


def test_a_large_test_shows_some_of_its_samples(tmp_path):
    page = check(render([summarize(save_run(tmp_path / "a", made_record(num=3000)))]))
    assert "2,000 of 3,001 samples, what could not be read and mistakes first" in page.text


def test_curves_of_a_training_too_short_for_a_line_between_its_epochs(tmp_path):
    run = save_run(tmp_path / "a", log=False)
    line = {"event": "epoch", "stage": "model", "epoch": 1, "update": 3, "lr": 1e-3, "loss": {"6x6": 1.0}}
    (run.folder / "log.jsonl").write_text(json.dumps(line) + "\n")
    summary = summarize(run)
    assert summary.training["model"].loss == {"6x6": [(3.0, 1.0)]}
    assert "Training: model" in check(render([summary])).text


def test_a_confusion_matrix_has_a_heading(tmp_path):
    assert "Confusion matrix class class <0>" in check(render([summarize(save_run(tmp_path / "a"))])).text


def test_a_reader_that_leaves_takes_no_file_with_it(tmp_path):
    save_run(tmp_path / "run")
    out = [tmp_path / f"out.{name}" for name in ("html", "json", "md")]
    command = [sys.executable, report.__file__, str(tmp_path / "run")]
    command += ["--html", str(out[0]), "--json", str(out[1]), "--markdown", str(out[2])]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert all(path.stat().st_size > 500 for path in out)
    assert done.returncode == 1
    assert done.stderr == ""
