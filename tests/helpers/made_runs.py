"""Runs with everything a report can show, made up but consistent, for the tests of the report."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from revit.common.evaluation import predictions
from revit.common.evaluation.examples import choose
from revit.common.evaluation.record import IN_RUN, EvaluationRecord, Example, save_record
from revit.common.report.runs import read_runs

GRIDS = ("6x6", "3x3")


def made_record(num=200, classes=5, views=1, assigner=True, useful=True):
    """Answers of a model whose short grid fails on the odd samples; a useful assigner knows which those are."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(num) % classes
    other = (targets + 1 + torch.randint(classes - 1, (num,), generator=generator)) % classes
    hard = torch.rand(num, generator=generator) < 0.5
    lost = torch.rand(num, generator=generator) < 0.1
    long, short = torch.where(lost, other, targets), torch.where(hard | lost, other, targets)
    predictions = {"6x6": long, "3x3": short}
    grid_index = None
    if assigner:
        chosen = ~hard if useful else torch.rand(num, generator=generator) < 0.5
        grid_index = chosen.long()[:, None].repeat(1, views)
        predictions["adaptive"] = torch.where(chosen, short, long)
    probabilities = {name: torch.rand(num, generator=generator) for name in predictions}
    names = tuple(f"class <{number}>" for number in range(classes))
    return EvaluationRecord(names, GRIDS, torch.arange(num), targets, predictions, probabilities, grid_index)


def jpeg(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="JPEG")
    return out.getvalue()


def with_pictures(record, frames=1):
    rows = choose(record, 2)
    return replace(
        record,
        examples=tuple(
            Example(row, f"clips/<i>{row}.mp4", tuple(jpeg(row + one) for one in range(frames))) for row in rows
        ),
    )


def content_of(record, top1=None):
    """Return the report.json that fits."""

    def percent(name):
        return 100 * float(record.correct(name).double().mean())

    costs = {"6x6": 1.0, "3x3": 0.3}
    content = {
        "fixed": [
            {"grid": grid, "top1": percent(grid), "top5": 99.0, "gmacs": costs[grid], "params": 1000} for grid in GRIDS
        ],
        "samples": {"evaluated": len(record.ids), "failed": 1},
        "failures": [{"path": "clips/<b>odd</b>.mp4", "reason": "empty file"}],
        "method": "revit",
        "model": "tiny",
        "protocol": {"data": "made", "split": "test", "num_views": 3, "merge": "logits", "seed": 0},
        "seconds": {"model": 12.0},
        "versions": {"torch": "2.11", "revit-video": "0.1.0"},
        "speed": {
            "device": "cpu (1 threads)",
            "dtype": "float32",
            "inputs": "clips",
            "calls": 20,
            "rows": [speed_row(grid, batch, ms) for grid, ms in (("6x6", 10.0), ("3x3", 4.0)) for batch in (1, 8)],
        },
    }
    if record.grid_index is not None:
        share = {grid: float((record.grid_index == place).double().mean()) for place, grid in enumerate(GRIDS)}
        content["adaptive"] = {
            "top1": percent("adaptive"),
            "gmacs": sum(share[grid] * costs[grid] for grid in GRIDS) + 0.01,
            "share": share,
            "assigner_gmacs": 0.01,
            "assigner_params": 10,
        }
        content["random"] = {"top1": 65.0, "gmacs": content["adaptive"]["gmacs"] - 0.01}
        content["oracle"] = {"top1": percent("6x6"), "gmacs": 0.6}
        content["speed"]["rows"] += [speed_row("adaptive", batch, 8.0) for batch in (1, 8)]
    return content


def speed_row(grid, batch, ms):
    """`ms` alone; in a batch an input takes half of that."""
    took = ms * batch * (0.5 if batch > 1 else 1)
    times = {"per_second": 1000 * batch / took, "ms_p50": took, "ms_p95": 1.2 * took}
    return {"grid": grid, "batch": batch, **times, "peak_memory_mb": 5.0 * batch}


def save_run(folder, record=None, content=None, log=True):
    """Write a run's folder; return the run as it is read."""
    folder.mkdir(parents=True, exist_ok=True)
    record = with_pictures(made_record()) if record is None else record
    (folder / "report.json").write_text(json.dumps(content or content_of(record)))
    save_record(folder / IN_RUN, record)
    save_predictions(folder, record)
    if log:
        (folder / "log.jsonl").write_text("\n".join(map(json.dumps, log_lines())) + "\n")
    return read_runs([folder])[0]


def save_predictions(folder, record):
    """Write the predictions.csv that fits, with one file that could not be read."""
    names, policy = record.label_names, record.policy
    with (folder / predictions.IN_RUN).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(predictions.COLUMNS)
        for row in range(len(record.ids)):
            label, said = int(record.targets[row]), int(record.predictions[policy][row])
            grid = GRIDS[0] if record.grid_index is None else GRIDS[int(record.grid_index[row, 0])]
            sure = f"{float(record.probabilities[policy][row]):.6f}"
            path = f"data/clips/<i>{row}.mp4"
            writer.writerow([path, names[label], names[said], sure, grid, int(label == said), ""])
        writer.writerow(["data/odd.mp4", names[0], "", "", "", "", "empty file"])


def log_lines():
    for update in range(10, 110, 10):
        loss = {"6x6": 2.0 - update / 100, "3x3": 0.5}
        yield {"event": "train", "stage": "model", "update": update, "lr": 1e-3, "loss": loss}
    yield {"event": "val", "epoch": 1, "top1": {"6x6": 50.0, "3x3": 40.0}}
    yield {"event": "val", "epoch": 2, "top1": {"6x6": 60.0, "3x3": 45.0}}
    yield {"event": "train", "stage": "assigner", "update": 5, "lr": 1e-3, "loss": {"assigner": 0.7}}
