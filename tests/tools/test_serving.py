"""`test_net` measures the model as `predict` serves it: the same answers at every length, and figures that say what they are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import agreement
import predict
import pytest
import test_net as tool_test_net
import torch
import train_net
from modalities import load_run
from tiny_run import write_config

from revit.common.evaluation.evaluate import Evaluation
from revit.common.evaluation.evaluator import Evaluator
from revit.common.methods.revit.budget import Milliseconds
from revit.common.serving import runtime

TIMES = Milliseconds((8.0, 4.0, 2.0), 0.1, "made up")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    path = write_config(folder, 128, 60, 90)
    assert train_net.main(["--cfg", str(path)]) == 0
    return folder


@pytest.fixture(autouse=True)
def own_cache(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVIT_CACHE", str(finished / "cache"))


def measured(folder: Path, **serving: Any) -> tuple[dict[str, Any], Evaluation]:
    """The report of the run's networks, and the answers that it comes from."""
    options, modality = load_run(str(folder / "config.yaml"), [])
    evaluator = Evaluator(options, modality)
    classifier = evaluator.load(folder / "run" / "checkpoint.safetensors")
    if serving:
        evaluator.serve(classifier, **serving)
    return evaluator.report(classifier)


@pytest.fixture(scope="module")
def plain(finished: Path) -> tuple[dict[str, Any], Evaluation]:
    return measured(finished)


def tool(folder: Path, *arguments: str) -> tuple[int, Any]:
    out = folder / "out.json"
    out.unlink(missing_ok=True)
    fixed = ["--cfg", str(folder / "config.yaml"), "--checkpoint", str(folder / "run"), "--json", str(out)]
    status = tool_test_net.main([*fixed, *arguments])
    return status, json.loads(out.read_text()) if out.exists() else None


@pytest.mark.parametrize(
    ("dtype", "compile", "limit"),
    [("float32", "compile", 1e-5), (None, "eager", 1e-5), ("bfloat16", "eager", 3e-2), ("int8", "eager", 0.1)],
)
def test_what_is_served_answers_as_the_float32_network_at_every_length(
    finished: Path,
    plain: tuple[dict[str, Any], Evaluation],
    monkeypatch: pytest.MonkeyPatch,
    dtype: str | None,
    compile: str,
    limit: float,
) -> None:
    # Without the compiler's minutes: what it is given, padded to its graphs, is what counts here.
    monkeypatch.setattr(runtime, "_compiled", lambda network, device: (network,))
    expected, answers = plain
    report, served = measured(finished, dtype=dtype, compile=compile)
    assert torch.equal(served.ids, answers.ids)
    assert set(served.answers) == {"6x6", "4x4", "3x3", "adaptive"}
    assert torch.equal(served.answers["adaptive"].grid_index, answers.answers["adaptive"].grid_index)
    for name, answer in answers.answers.items():
        found = served.answers[name].logits
        assert found.dtype == torch.float32
        assert float((found - answer.logits).abs().max() / answer.logits.abs().max()) < limit, name
        if limit < 1e-4:  # coarser rounding may part classes that two epochs left level
            assert (found.argmax(2) == answer.logits.argmax(2)).double().mean() >= 0.99, name
    mode = "compiled" if compile == "compile" else "eager"
    assert report["protocol"]["dtype"] == (dtype or "float32")
    assert report["protocol"]["served"] == f"{dtype or 'float32'}, {mode}, batches of up to 16"
    for key in ("gmacs", "params", "grid"):  # of the network, however it is served
        assert [row[key] for row in report["fixed"]] == [row[key] for row in expected["fixed"]]
    assert report["adaptive"]["share"] == expected["adaptive"]["share"]
    assert report["adaptive"]["gmacs"] == expected["adaptive"]["gmacs"]


def test_without_options_it_is_the_run_s_own_figures(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = json.loads((finished / "run" / "report.json").read_text())
    capsys.readouterr()
    status, report = tool(finished)
    assert status == 0
    assert "measured in float32 on " in capsys.readouterr().out
    assert report["protocol"]["dtype"] == "float32"
    assert "served" not in report["protocol"]
    assert [row["top1"] for row in report["fixed"]] == [row["top1"] for row in first["fixed"]]
    for key in ("top1", "gmacs", "share", "interval"):
        assert report["adaptive"][key] == first["adaptive"][key]
    assert report["model"] == "deit_small"


def test_the_tool_says_what_it_served(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    status, report = tool(finished, "--dtype", "auto")
    assert status == 0
    assert report["protocol"]["dtype"] in ("float32", "bfloat16")
    assert report["protocol"]["served"] in capsys.readouterr().out


def test_a_budget_of_time_is_of_what_is_served_and_has_the_clock_beside_it(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Any, ...]] = []

    def made_up(networks: Any, *arguments: Any) -> Milliseconds:
        asked.append((type(networks.model).__name__, *arguments[2:]))
        return TIMES

    monkeypatch.setattr("revit.common.serving.budgets.measure_milliseconds", made_up)
    capsys.readouterr()
    status, report = tool(finished, "--budget", "ms:5", "--dtype", "bfloat16", "--compile", "eager")
    assert status == 0
    assert "(by the clock " in capsys.readouterr().out.splitlines()[-1]
    achieved = report["budget"]["achieved"]
    assert achieved["ms_clock"] == pytest.approx(1000 / report["adaptive"]["per_second"])
    assert asked == [("Runtime", "float32", 16, "bfloat16, eager")]

    asked.clear()
    out = finished / "said.json"
    served = ["--dtype", "bfloat16", "--compile", "eager", "--batch", "4", "--device", "cpu"]
    pictures = str(finished / "run" / "data" / "test")
    command = ["--checkpoint", str(finished / "run"), pictures, "--json", str(out), *served]
    assert predict.main([*command, "--budget", "ms:5"]) == 0
    line = capsys.readouterr().err.splitlines()[-1]
    rows = json.loads(out.read_text())
    achieved = rows[0]["budget"]["achieved"]
    # Each picture is one view.
    assert achieved["ms_clock"] == pytest.approx(sum(row["ms_compute"] for row in rows) / len(rows), abs=1e-3)
    by_share = sum(share * ms for share, ms in zip(achieved["share"].values(), TIMES.grids))
    assert achieved["ms"] - by_share == pytest.approx(0, abs=TIMES.assigner + 1e-9)
    assert achieved["ms"] < 5 * 1.05
    assert f"achieved {achieved['gmacs']:.4g} GMACs {achieved['ms']:.4g} ms (by the clock" in line
    assert asked == [("Runtime", "bfloat16", 4, "bfloat16, eager")]

    gmacs = report["fixed"][1]["gmacs"]
    assert predict.main([*command, "--budget", f"gmacs:{gmacs}"]) == 0
    assert "ms_clock" not in json.loads(out.read_text())[0]["budget"]["achieved"]


def test_the_benchmark_of_agreement_finds_the_engine_to_agree(finished: Path) -> None:
    out = finished / "agreement.json"
    assert agreement.main(["--run", str(finished / "run"), "--dtypes", "float32", "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert (row["measured"], row["runs"]) == ("100.00 %", "90 files")
    assert row["spread"].startswith("100.00 % got the same token length")
