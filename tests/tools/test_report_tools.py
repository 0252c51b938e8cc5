"""flops, throughput and report from the command line, and the published configurations."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import modalities
import pytest
import torch

from revit.common.config.load import dump, load
from revit.common.system.errors import UserError
from revit.common.timing.clock import SIDES
from revit.common.timing.peers import Reference
from revit.video.options import VideoRun

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "video").glob("*.yaml"))
TINY = """
kind: video
data:
  frames: {num_frames: 2}
  pixels: {crop_size: 32, jitter_min: 32, jitter_max: 40}
model: {grids: [4x4, 2x2], num_classes: 5, embed_dim: 16, depth: 1, num_heads: 2}
run: {dir: RUN_DIR}
"""


@pytest.fixture(autouse=True)
def small_yardstick(monkeypatch):
    monkeypatch.setitem(SIDES, "cpu", 64)


def tool(name):
    spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("RUN_DIR", str(tmp_path / "run")))
    return path


def test_flops_rows(tiny, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert tool("flops")(["--cfg", str(tiny), "data.test_views.num_crops=3", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert [row["grid"] for row in rows] == ["4x4", "2x2", "assigner"]
    for row in rows:
        assert list(row) == ["config", "grid", "params", "gmacs", "gflops", "views", "gmacs_total"]
        assert row["config"] == "tiny"
        assert row["views"] == 3
        assert row["gmacs_total"] == 3 * row["gmacs"]
        assert row["gflops"] == 2 * row["gmacs"]
    printed = capsys.readouterr()
    assert "assigner" in printed.out
    assert printed.err == ""


def test_flops_adaptive_row_from_a_finished_run(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    report = {"adaptive": {"share": {"4x4": 0.25, "2x2": 0.75}}}
    (tmp_path / "run" / "report.json").write_text(json.dumps(report))
    out = tmp_path / "out.json"
    assert tool("flops")(["--cfg", str(tiny), "--json", str(out)]) == 0
    long, short, assigner, adaptive = json.loads(out.read_text())
    assert adaptive["grid"] == "adaptive"
    assert adaptive["gmacs"] == pytest.approx(0.25 * long["gmacs"] + 0.75 * short["gmacs"] + assigner["gmacs"])
    assert adaptive["params"] == long["params"] + assigner["params"]


def test_throughput_rows(tiny, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["--dtypes", "float32", "--batches", "1,2", "--rounds", "1", "--json", str(out), "run.device=cpu"]
    assert tool("throughput")(["--cfg", str(tiny), *arguments]) == 0
    rows = json.loads(out.read_text())
    assert [(row["name"], row["grid"], row["batch"]) for row in rows] == [
        (name, grid, batch)
        for name in ("ours", "ours, served")
        for batch in (1, 2)
        for grid in ("4x4", "2x2", "adaptive")
    ]
    assert {row["kind"] for row in rows} == {"video"}
    assert "Speed on cpu" in capsys.readouterr().out


def test_throughput_of_the_served_model_alone(tiny, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["--cfg", str(tiny), "--batches", "1", "--rounds", "1", "model.grids=[4x4]", "run.device=cpu"]
    both = ["--dtypes", "float32,bfloat16", "--json", str(out)]
    assert tool("throughput")([*arguments, *both, "--ours", "served"]) == 0
    rows = json.loads(out.read_text())
    assert [(row["name"], row["dtype"], row["compiled"]) for row in rows] == [
        ("ours, served", "float32", False),
        ("ours, served", "bfloat16", False),
    ]
    for wrong, said in (
        (["--ours", "plain", "--dtypes", "int8"], "the plain model has no int8"),
        (["--training", "--dtypes", "int8"], "nothing trains in int8"),
        (["--training", "--ours", "plain"], "leave out --peers and --ours"),
        (["--dtypes", "int4"], "choose from float32, bfloat16 and int8"),
    ):
        with pytest.raises(SystemExit, match="2"):
            tool("throughput")([*arguments, *wrong])
        assert said in capsys.readouterr().err


def test_without_a_peer_our_own_rows_remain(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(modalities.PEERS, "video", (modalities.PEERS["video"][0], Reference("x", _none, (1,))))
    out = tmp_path / "out.json"
    arguments = ["--dtypes", "float32", "--batches", "1", "--rounds", "1", "--json", str(out), "--peers"]
    stem = ["model.patch_embed=stem", "model.stem_widths=[4,4,8]", "run.device=cpu"]
    assert tool("throughput")(["--cfg", str(tiny), *arguments, *stem]) == 0
    assert [row["name"] for row in json.loads(out.read_text())] == [*["ours"] * 3, *["ours, served"] * 3]
    said = capsys.readouterr().err
    assert "tiny: no huggingface beside ours: " in said
    assert "no x: pip install it" in said


def test_peers_by_name(tiny, tmp_path, capsys, monkeypatch):
    made = []

    def make():
        made.append(True)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))

    references = (Reference("x", _none, (1,)), Reference("y", make, (1, 3, 1, 2, 2)))
    monkeypatch.setitem(modalities.PEERS, "video", (modalities.PEERS["video"][0], *references))
    out = tmp_path / "out.json"
    arguments = ["--cfg", str(tiny), "--dtypes", "bfloat16", "--batches", "1", "--rounds", "1", "--json", str(out)]
    assert tool("throughput")([*arguments, "run.device=cpu", "--peers", "y,huggingface"]) == 0
    rows = [(row["name"], row["dtype"]) for row in json.loads(out.read_text())]
    both = ("float32", "bfloat16")
    ours = [*[("ours", "bfloat16")] * 3, *[("ours, served", "bfloat16")] * 3]
    assert rows == [*(("huggingface", one) for one in both), *ours, *(("y", one) for one in both)]
    assert made == [True]
    assert tool("throughput")([*arguments, "--peers", "y,timm,z"]) == 2
    assert capsys.readouterr().err.endswith(
        "error: --peers: timm, z: no such peer of video models; there are huggingface, x, y\n"
    )


def test_a_method_without_a_twin_is_told_and_a_wrong_twin_ends_the_run(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(modalities.PEERS, "video", modalities.PEERS["video"][:1])
    arguments = [
        "--cfg",
        str(tiny),
        "--dtypes",
        "float32",
        "--batches",
        "1",
        "--rounds",
        "1",
        "run.device=cpu",
        "--peers",
    ]
    method = ["model.grids=[4x4]", "model.depth=6", "methods.dynamicvit.keep_rate=0.7"]
    assert tool("throughput")([*arguments, *method]) == 0
    said = capsys.readouterr()
    assert said.err.count("tiny: no huggingface beside ours: ") == 1
    assert "takes no tokens away between blocks, as DynamicViTReducer does" in said.err
    assert "ours" in said.out
    monkeypatch.setattr("revit.common.timing.peers.LARGEST_DIFFERENCE", -1.0)
    assert tool("throughput")(arguments) == 1
    assert "logits differ from ours" in capsys.readouterr().err


def _none():
    raise UserError("pip install it")


def test_report_tool(tmp_path, capsys):
    assert tool("report")([str(tmp_path)]) == 2
    assert "no report.json" in capsys.readouterr().err
    report = {
        "fixed": [{"grid": "4x4", "top1": 50.0, "gmacs": 1.0}, {"grid": "2x2", "top1": 40.0, "gmacs": 0.3}],
        "samples": {"evaluated": 10, "failed": 0},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert tool("report")([str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    assert "50.00" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "page.html").read_text()
    assert tool("report")([str(tmp_path), "--html", str(tmp_path / "page.html" / "inside")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["flops", "throughput"])
def test_mistakes_end_with_status_two(name, tiny, capsys):
    assert tool(name)(["--cfg", str(tiny), "model.depht=3"]) == 2
    message = capsys.readouterr().err
    assert message == "error: command line: model.depht: found 3; unknown key; did you mean depth?\n"
    assert tool(name)(["--cfg", str(tiny.with_name("none.yaml"))]) == 2
    assert "no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        tool(name)([])
    assert stopped.value.code == 2


@pytest.mark.parametrize("name", ["flops", "throughput", "report"])
def test_help_shows_a_command(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        tool(name)(["--help"])
    assert stopped.value.code == 0
    assert f"example:\n  python tools/{name}.py " in capsys.readouterr().out


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_are_valid_and_say_what_they_are(path, tmp_path):
    options = load(VideoRun, path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump(options))
    assert load(VideoRun, copy) == options
    head = "".join(line for line in path.read_text().splitlines(keepends=True)[:12] if line.startswith("#"))
    assert f"configs/video/{path.name}" in head


PUBLISHED = {
    "timesformer_8x224": (8, 32, 224, (256, 320)),
    "timesformer_hr_16x448": (16, 16, 448, (448, 512)),
    "timesformer_l_96x224": (96, 4, 224, (256, 320)),
    "revit_timesformer_8x224": (8, 32, 224, (256, 320)),
    "revit_timesformer_hr_16x448": (16, 16, 448, (448, 512)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_recipe(name):
    options = load(VideoRun, ROOT / "configs" / "video" / f"{name}.yaml")
    frames, pixels, train = options.data.frames, options.data.pixels, options.train
    found = (frames.num_frames, frames.sampling_rate, pixels.crop_size, (pixels.jitter_min, pixels.jitter_max))
    assert found == PUBLISHED[name]
    assert (train.optim.name, train.optim.momentum, train.optim.lr, train.optim.weight_decay) == (
        "sgd",
        0.9,
        0.005,
        1e-4,
    )
    assert train.optim.decay_one_dimensional
    assert (train.effective_batch, train.schedule.epochs, train.schedule.milestones) == (64, 15, (11, 14))
    assert options.data.test_views.num_views == 3
    assert options.run.dtype == "float32"
    assert options.model.drop_path_rate == 0.1
    assert (pixels.mean, pixels.std) == ((0.45,) * 3, (0.225,) * 3)
