"""Tables of what runs showed: only those of the configuration as it reads now, with the machine of the run."""

from __future__ import annotations

import json
import os

from made_tables import flexivit, runs, searches
from made_tables.budgets import budgets
from made_tables.training import training
from tables import ROOT

from revit.common.config.load import dump, load
from revit.image.options import ImageRun
from revit.image.search.run_options import AsViTSearchRun
from revit.video.options import VideoRun

REPORT = {
    "fixed": [{"grid": "6x6", "top1": 90.0, "gmacs": 2.0}, {"grid": "3x3", "top1": 80.0, "gmacs": 1.0}],
    "adaptive": {"top1": 89.0, "gmacs": 1.5, "share": {"6x6": 0.4, "3x3": 0.6}, "assigner_gmacs": 0.1},
    "random": {"top1": 85.0, "gmacs": 1.4},
    "oracle": {"top1": 92.0, "gmacs": 1.2},
    "samples": {"evaluated": 100, "failed": 0},
    "versions": {"python": "3.12", "machine": "Some Processor", "torch": "2.0"},
}


def test_seeds_of_the_demo_as_it_is_configured_now(tmp_path, capsys):
    config = ROOT / "configs" / "image" / "demo.yaml"
    for seed, changes in ((0, []), (1, ["train.schedule.epochs=1"])):
        folder = tmp_path / f"image_seed{seed}"
        folder.mkdir()
        options = [f"run.dir={folder}", f"run.seed={seed}", f"data.demo.seed={seed}", *changes]
        (folder / "config.yaml").write_text(dump(load(ImageRun, config, options)))
        (folder / "report.json").write_text(json.dumps(REPORT))
    made = runs.seeds("image", tmp_path, "image_seedN")
    assert made is not None
    assert (
        "| 0 | 90.00 | 80.00 | 89.00 (-1.00) | 75% | 85.00 (+4.00 for adaptive) | - | 92.00 | 100 |" in made
    )
    assert "| 1 |" not in made
    assert "on Some Processor, python 3.12, torch 2.0." in made
    assert "image_seed1 is left out: its settings are not those of" in capsys.readouterr().err


def test_ablations(tmp_path):
    path = tmp_path / "ablations.json"
    about = {
        "command": "python benchmarks/ablations.py",
        "machine": "Some Processor",
        "versions": {"torch": "2.0"},
    }
    path.write_text(json.dumps({**about, "rows": {"lambda_0.5": [{"14x14": 88.3}]}}))
    made = runs.ablation(path)
    assert made is not None
    assert "| lambda 0.5 | 88.3 | 79.92 |" in made
    assert made.endswith("By `python benchmarks/ablations.py` on Some Processor; torch 2.0.\n")
    assert runs.ablation(tmp_path / "none.json") is None


def test_budgets(tmp_path, capsys):
    path = tmp_path / "runs" / "budgets" / "video.json"
    assert budgets("video", path) is None
    assert (
        "python benchmarks/budgets.py --run runs/demo --json runs/budgets/video.json"
        in capsys.readouterr().err
    )
    one = {
        "asked": "gmacs:0.02",
        "predicted_top1": 79.84,
        "predicted_interval": [76.06, 83.14],
        "predicted_gmacs": 0.02,
        "test_gmacs": 0.02002,
        "test_top1": 80.067,
        "predict_gmacs": 0.01996,
        "predict_top1": 80.0,
        "samples": 1500,
    }
    path.parent.mkdir(parents=True)
    content = {"command": "python benchmarks/budgets.py", "versions": REPORT["versions"], "rows": [one]}
    path.write_text(json.dumps(content))
    made = budgets("video", path)
    assert made is not None
    cells = (
        "| `gmacs:0.02` | 79.8 (76.1 to 83.1) | 0.02 | 0.02002 (+0.1 %) | 80.07 | 0.01996 (-0.2 %) | 80.00 |"
    )
    assert cells in made
    assert (
        "By `python benchmarks/budgets.py` on Some Processor, python 3.12, torch 2.0; 1,500 test clips."
        in made
    )


def test_flexivit_is_tested_at_other_sizes_after_it_was_trained(tmp_path, capsys):
    for kind, options in (("image", ImageRun), ("video", VideoRun)):
        folder = tmp_path / f"{kind}_flexivit"
        folder.mkdir()
        config = ROOT / "configs" / kind / "demos" / "flexivit.yaml"
        (folder / "config.yaml").write_text(dump(load(options, config, [f"run.dir={folder}"])))
        (folder / "report.json").write_text(json.dumps(REPORT))
        between = {**REPORT, "fixed": [{"grid": "5x5", "top1": 85.04, "gmacs": 1.5}]}
        (folder / "other_sizes.json").write_text(json.dumps(between))
    made = flexivit.flexivit(tmp_path)
    assert made is not None
    assert "| digits | 6x6 90.0, 3x3 80.0 | 5x5 85.0 |" in made
    assert "| clips | 6x6 90.0, 3x3 80.0 | 5x5 85.0 |" in made
    assert "on Some Processor, python 3.12, torch 2.0." in made
    os.utime(folder / "other_sizes.json", (0, 0))
    assert flexivit.flexivit(tmp_path) is None
    said = capsys.readouterr().err
    assert "tools/test_net.py --cfg configs/video/demos/flexivit.yaml" in said
    assert "configs/image" not in said


def test_searches(tmp_path, capsys):
    folder = tmp_path / "image_asvit_five"
    folder.mkdir()
    config = ROOT / "configs" / "image" / "demos" / "asvit.yaml"
    found = load(AsViTSearchRun, config, [*searches.SETTINGS, f"run.dir={folder}"])
    (folder / "config.yaml").write_text(dump(found))
    means = {"K1": 7.4, "K2": 4, "K3": 4, "K4": 4, "heads": 22.4}
    content = {
        "complete": True,
        "searches": [{"seed": seed, "steps": 500} for seed in range(5)],
        "statistics": {name: {"mean": mean, "paper_mean": mean + 0.5} for name, mean in means.items()},
        "random": [{"score": 1.0, "random_mean": -0.25, "random_best": 0.8}] * 2,
        "versions": REPORT["versions"],
    }
    (folder / "search.json").write_text(json.dumps(content))
    made = searches.searches(folder)
    assert made is not None
    assert "| mean of | K1 | K2-K4 | heads |" in made
    assert "| 5 seeds, digits | 7.4 | 4.0 | 22.4 |" in made
    assert "| paper's Table 3, ImageNet | 7.9 | 4.5 | 22.9 |" in made
    assert "score 1.00, 1.00; random ones -0.25 on average" in made
    content["statistics"]["K2"]["mean"] = 5
    (folder / "search.json").write_text(json.dumps(content))
    assert "| mean of | K1 | K2 | K3 | K4 | heads |" in (searches.searches(folder) or "")
    (folder / "search.json").write_text(json.dumps({**content, "complete": False}))
    assert searches.searches(folder) is None
    assert "search.seeds=[0,1,2,3,4]" in capsys.readouterr().err


def test_training(tmp_path):
    path = tmp_path / "training.json"
    row = {
        "name": "one process",
        "config": "revit_deit_small",
        "grid": "14x14+10x10+7x7",
        "dtype": "float32",
        "batch": 4,
        "device": "cpu (Some Processor, 1 thread)",
        "instructions": "avx2",
        "ms_p50": 2430.4,
        "lengths": 3,
        "devices": 1,
        "grids_per_rank": [["14x14"], ["10x10", "7x7"]],
        "relative": 1.77,
        "cpu_ms": 2000.0,
        "sum_relative": 1.016,
        "sum_relative_spread": [0.99, 1.04],
        "modelled_batch": 128,
        "modelled_ms": 51.1,
        "modelled_relative": 1.75,
        "modelled_busy": 0.99,
        "rounds": 7,
        "versions": {"torch": "2.0"},
    }
    replicas = {**row, "name": "replicas", "devices": 2, "sum_relative": None, "sum_relative_spread": None}
    path.write_text(json.dumps([row, replicas]))
    made = training(path)
    assert made is not None
    lengths = "| 14x14, 10x10, 7x7 |"
    assert (
        f"{lengths} one process (Algorithm 1) | 1 | 2,430 | 1.77 | 1.02 (0.99 to 1.04) | 51.1 | 1.75 | 99% |"
        in made
    )
    assert f"{lengths} replicas (10x10 and 7x7 share one) | 2 | 2,430 | 1.77 | - |" in made
    assert "on cpu (Some Processor, 1 thread) per process, avx2; median of 7 rounds; torch 2.0." in made
    unmodelled = {**row, "lengths": 1, "modelled_ms": None, "modelled_relative": None, "modelled_busy": None}
    path.write_text(json.dumps([unmodelled, {**unmodelled, "batch": 8}]))
    made = training(path)
    assert made is not None
    assert "modelled" not in made
    assert "| one process | 1 |" in made
    assert "| batch |" in made.splitlines()[0]
    assert training(tmp_path / "none.json") is None
