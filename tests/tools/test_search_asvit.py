"""The whole search from one YAML: results, figures, statistics, going on, budgets, and the training of what was found."""

from __future__ import annotations

import json

import pytest
import search_asvit

from revit.image.models.genotype import Genotype, read_genotype
from revit.image.search.measure import Measurer

CONFIG = """
kind: asvit_search
data:
  demo: {train_pictures: 48, val_pictures: 10, test_pictures: 20, num_workers: 1, picture_pixels: 32,
         easy_pixels: [18, 30], hard_pixels: [9, 12]}
  pixels: {img_size: 32, crop_pct: 1.0}
  augment: {scale: [0.7, 1.0], flip_probability: 0}
  loading: {num_workers: 0}
measure: {repeats: 1, thetas: 2, pictures: 4}
search: {steps: 4, width: 8, seeds: [1, 2]}
grow: {times: 1, start_width: 8, stop_params: 0.12e6, max_params: 0.4e6, num_classes: 10}
baselines: {topologies: 3, growths: 2}
train: {train: {batch_size: 16, schedule: {name: cosine, epochs: 1}}}
run: {dir: RUN, num_workers: 0}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    path = folder / "config.yaml"
    path.write_text(CONFIG.replace("RUN", str(folder / "run")))
    return path


@pytest.fixture(scope="module")
def run(config):
    assert search_asvit.main(["--cfg", str(config)]) == 0
    return config.parent / "run"


def read(path):
    return json.loads(path.read_text())


def test_everything_is_written(run):
    found = read(run / "search.json")
    assert found["complete"]
    assert [one["seed"] for one in found["searches"]] == [1, 2]
    assert len(found["random"]) == 2
    assert found["statistics"]["K1"]["paper_mean"] == 7.3
    growth = read(run / "growth.json")
    assert growth["complete"]
    assert len(growth["random"]) == 2
    assert growth["random"][0]["complexity"] > 0
    genotype = read_genotype(str(run / "genotype.txt"))
    assert str(genotype) == growth["genotype"]
    seed = Genotype.parse(found["genotype"])
    assert genotype.grown((1, 1, 1, 1), 8) == seed
    for name in ("search.png", "growth.png"):
        assert (run / name).stat().st_size > 1000
    steps = [json.loads(line) for line in (run / "search_seed2.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [0, 1, 2, 3]
    assert steps[0]["reward"] == 0
    assert steps[0]["entropy"] == pytest.approx(15.3, abs=0.2)


def test_what_was_found_is_trained(run):
    report = read(run / "trained" / "report.json")
    assert report["samples"]["evaluated"] == 20
    assert report["fixed"][0]["params"] == read(run / "growth.json")["steps"][-1]["taken"]["params"]


def test_again_it_finds_the_same_without_measuring(run, config, monkeypatch):
    before = {name: read(run / name) for name in ("search.json", "growth.json")}
    monkeypatch.setattr(Measurer, "network", None)
    assert search_asvit.main(["--cfg", str(config), "train=null", f"run.dir={run}2"]) == 1  # nothing known there
    (run / "search.json").unlink()
    assert search_asvit.main(["--cfg", str(config)]) == 0
    assert {name: read(run / name) for name in before} == before


def test_statistics_are_printed_beside_the_papers(run, config, capsys):
    assert search_asvit.main(["--cfg", str(config)]) == 0
    out = capsys.readouterr().out
    for text in ("Topologies found, 2 seed(s)", "42.7", "Found against random", "Growth", "genotype: "):
        assert text in out


def test_a_budget_leaves_a_usable_result(config, tmp_path, capsys):
    arguments = ["--cfg", str(config), f"run.dir={tmp_path / 'cut'}", "train=null", "baselines.growths=0"]
    budgets = ["search.budget.steps=2", "search.seeds=[1]", "grow.budget.steps=1"]
    assert search_asvit.main([*arguments, *budgets]) == 0
    assert "cut short after 2 steps" in capsys.readouterr().out
    assert not read(tmp_path / "cut" / "search.json")["complete"]
    assert len(read(tmp_path / "cut" / "growth.json")["steps"]) == 1
    assert read_genotype(str(tmp_path / "cut" / "genotype.txt")).depths != (1, 1, 1, 1)
    assert search_asvit.main([*arguments, "search.seeds=[1]", "search.budget.minutes=1e-9", "grow=null"]) == 0
    assert len(read(tmp_path / "cut" / "search.json")["searches"]) == 1  # what is known needs no time


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.pixels.img_size=40", "multiple of 32"),
        ("search.seeds=[1,1]", "has one twice"),
        ("grow.stop_params=1e9", "above max_params"),
        ("grow.topology=1,2,3", "not an As-ViT genotype"),
        ("train.train.batch_size=0", "train.train.batch_size"),
        ("train.kind=image", "search's own"),
        ("measure.radius=two", "measure.radius"),
        ("measure.pictures=1000", "has 48"),
    ],
)
def test_mistakes_are_named(config, tmp_path, override, message, capsys):
    arguments = ["--cfg", str(config), f"run.dir={tmp_path / 'run'}", override]
    assert search_asvit.main(arguments) == 2
    assert message in capsys.readouterr().err
