"""The report of a real run: everything in the page, speed measured again, useless assigners and wrong counts caught."""

from __future__ import annotations

import json
import shutil

import pytest
import report
import torch
import train_net
from page_check import check

from revit.common.evaluation.adaptive import Costs, adaptive_report
from revit.common.evaluation.evaluate import Answers, Evaluation
from revit.common.evaluation.record import IN_RUN, load_record
from revit.common.report.runs import RunReport

CONFIG = """
kind: video
data:
  demo: {train_clips: 24, val_clips: 8, test_clips: 24, num_workers: 1}
  frames: {num_frames: 4, sampling_rate: 4}
  pixels: {crop_size: 32, jitter_min: 32, jitter_max: 32, flip_probability: 0}
  test_views: {num_temporal_views: 2, num_crops: 1}
  loading: {num_workers: 0, decode_timeout_seconds: 0}
model: {grids: [4x4, 2x2], embed_dim: 16, depth: 1, num_heads: 2}
train: {batch_size: 8, optim: {name: adamw, lr: 1e-3}, schedule: {name: cosine, epochs: 1}}
assigner: {size: 32, width: 0.25, train: {batch_size: 8, schedule: {name: cosine, epochs: 1}}}
run: {dir: RUN, log_every: 1, speed_seconds: 0.1}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    path = folder / "config.yaml"
    path.write_text(CONFIG.replace("RUN", str(folder / "run")))
    assert train_net.main(["--cfg", str(path)]) == 0
    return folder / "run"


def test_what_the_evaluation_saw_gives_its_figures(finished):
    content, record = json.loads((finished / "report.json").read_text()), load_record(finished / IN_RUN)
    assert record.grids == ("4x4", "2x2")
    assert record.grid_index.shape == (24, 2)
    for row in content["fixed"]:
        assert 100 * float(record.correct(row["grid"]).double().mean()) == pytest.approx(row["top1"])
    assert 100 * float(record.correct("adaptive").double().mean()) == pytest.approx(content["adaptive"]["top1"])
    for position, share in enumerate(content["adaptive"]["share"].values()):
        assert float((record.grid_index == position).double().mean()) == pytest.approx(share)
    assert {len(example.frames) for example in record.examples} <= {4}
    assert {row["grid"] for row in content["speed"]["rows"]} == {"4x4", "2x2", "adaptive"}


def test_the_page_of_a_run(finished, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert report.main([str(finished), "--html", str(out), "--json", str(tmp_path / "page.json")]) == 0
    page = check(out.read_text())
    (told,) = json.loads((tmp_path / "page.json").read_text())["runs"]
    assert told["missing"] == []
    assert page.texts[2] == told["verdict"]
    assert capsys.readouterr().out.startswith(f"{finished}: {told['verdict']}\n")
    for wanted in ("Measured speed", "Token lengths", "Classes", "Training: model", "Training: assigner"):
        assert wanted in page.text
    assert len(page.images) == 4 * len(load_record(finished / IN_RUN).examples)


def test_speed_is_measured_again_where_it_is_missing(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    content = json.loads((run / "report.json").read_text())
    del content["speed"]
    (run / "report.json").write_text(json.dumps(content))
    assert report.main([str(run), "--measure"]) == 0
    again = json.loads((run / "report.json").read_text())
    assert {row["grid"] for row in again.pop("speed")["rows"]} == {"4x4", "2x2", "adaptive"}
    assert again == content


def test_a_counter_with_attention_left_out_is_caught(finished, tmp_path, monkeypatch, capsys):
    """Such a counter must not get into a report: the evaluation ends with the counts that disagree, and nothing is written."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "report.json").unlink()
    monkeypatch.setattr("revit.common.costs.flops._attention_macs", lambda inputs, outputs: {"attention": 0.0})
    arguments = ["--cfg", str(run / "config.yaml"), "--stage", "evaluate", f"run.dir={run}"]
    assert train_net.main(arguments) == 1
    assert "CountError: the counts disagree by more than 1% on attention" in capsys.readouterr().err
    assert not (run / "report.json").exists()
    assert report.main([str(run)]) == 2
    assert "no report.json" in capsys.readouterr().err


@pytest.mark.parametrize("useful", [True, False])
def test_a_useless_assigner_is_called_useless(tmp_path, capsys, useful):
    """One trained on shuffled labels knows nothing of an input: the same lengths as a good one's, dealt to others."""
    num, hard = 400, torch.arange(400) % 2
    targets = torch.randint(4, (num,))
    long = torch.nn.functional.one_hot(targets, 4).float()
    short = torch.where(hard[:, None] == 1, long.roll(1, dims=1), long)
    grid_index = 1 - hard if useful else (1 - hard)[torch.randperm(num)]
    chosen = torch.where(grid_index[:, None] == 1, short, long)
    logits = {"4x4": long, "2x2": short, "adaptive": chosen}
    answers = {name: Answers(10 * one[:, None], grid_index[:, None], 1.0) for name, one in logits.items()}
    evaluation = Evaluation(torch.arange(num), targets, answers, [])
    content = adaptive_report(evaluation, Costs({"4x4": 1.0, "2x2": 0.25}, 0.01, 1000, 10), "logits")
    assert RunReport("a", content).judged.good == useful
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert report.main([str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().out.splitlines()[0], check((tmp_path / "page.html").read_text()).texts[2]
    for text in said:
        assert "The assigner pays" in text if useful else "than chance" in text or "from chance" in text
