"""What a run says of its data before it begins, and of its result, with the next command, when it is done."""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from revit.common.data.formats.base import Split
from revit.common.data.lists import SampleList
from revit.common.data.summary import data_lines, machine_warnings
from revit.common.evaluation.intervals import wilson
from revit.common.training.stages import Run

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def say_opening(run: Run) -> None:
    """Say what the lists hold, and what in them, or in how they are loaded, is worth a stop. Called by all processes."""
    neighbours = run.context.gather(socket.gethostname()).count(socket.gethostname())
    if run.context.is_main:
        line, warnings = opening(run, neighbours)
        run.log.write("data", line=line, warnings=warnings)
        for text in (*_read_as(run), line, *(f"WARNING {text}" for text in warnings)):
            run.log.say(text)


def _read_as(run: Run) -> Sequence[str]:
    """Return a line for each source of the user's: what it was taken for, which is found out from its content."""
    if run.options.makes_data:
        return ()
    lists = [run.modality.split(run.options, one) for one in SPLITS if run.modality.has_split(run.options, one)]
    return tuple(dict.fromkeys(f"{one.source}: read as: {one.read_as}" for one in lists))


def opening(run: Run, processes: int = 1) -> tuple[str, list[str]]:
    """Return the line on the lists, and the warnings. processes: those of the run on this machine."""
    options, modality = run.options, run.modality
    tested = options.test.split
    used = [split for split in SPLITS if split == tested or modality.has_split(options, split)]
    lists: dict[Split, SampleList] = {split: modality.split(options, split) for split in used}
    line, warnings = data_lines(lists, run.label_names, modality.plural)
    if options.run.keep == "best" and line.endswith("the same files as val"):
        warnings.append(
            "run.keep=best takes the model that is best on the very list it is tested on, which flatters it; give data.source.test, "
            "or data.source.split_off in place of data.source.val"
        )
    if options.train.freeze == "backbone" and options.start.source is None:
        warnings.append(
            "train.freeze=backbone without start.source: nothing but the head learns, on random features; give a start, or leave "
            "freeze out"
        )
    trained: Split = "train" if "train" in lists else tested
    warnings += modality.data_warnings(options, trained)
    data: Any = options.data  # every modality's has `loading`
    threads = torch.get_num_threads() if run.device.type == "cpu" else 1
    return line, [*warnings, *machine_warnings(data.loading.num_workers, threads, processes)]


def say_closing(run: Run) -> None:
    """Say how good the result is, against chance, and what comes next."""
    if not run.context.is_main or not run.report_file.exists():
        return
    report = json.loads(run.report_file.read_text("utf-8"))
    samples = run.modality.split(run.options, run.options.test.split)
    for text in closing(report, samples, run.label_names, run.modality.plural):
        run.log.say(text)
    folder, what = shlex.quote(str(run.options.run.dir)), run.modality.plural.upper()
    run.log.say(f"next: python tools/report.py {folder}; python tools/predict.py --checkpoint {folder} {what}")


def closing(report: Mapping[str, Any], samples: SampleList, names: Sequence[str], noun: str) -> list[str]:
    """Return the result in a line, and the verdict on it in another, where there is an assigner or something to be done.

    report: of `report.json`.  samples: the tested list.
    """
    rows = [*report["fixed"], *([{"grid": "adaptive", **report["adaptive"]}] if "adaptive" in report else [])]
    num, key = report["samples"]["evaluated"], "map" if samples.several else "top1"
    if not num or not all(key in row for row in rows):
        return []
    shares = 100 * np.bincount(samples.all_labels, minlength=len(names)) / len(samples)
    if samples.several:
        shown = ", ".join(f"{row['grid']} {row[key]:.2f} %" for row in rows)
        return [f"result: mAP {shown}, on {num} {noun}; chance is {shares.mean():.2f} %, the classes' mean share"]
    limits = {row["grid"]: [100 * limit for limit in wilson(min(row[key] / 100, 1.0), num)] for row in rows}
    shown = ", ".join(
        f"{row['grid']} {row[key]:.2f} % ({{:.1f}} to {{:.1f}})".format(*limits[row["grid"]]) for row in rows
    )
    largest = int(shares.argmax())
    lines = [
        f"result: top-1 {shown}, with the 95 % interval on {num} {noun}; chance is {100 / len(names):.2f} % ({len(names)} classes), "
        f"always {names[largest]!r} {shares[largest]:.2f} %"
    ]
    good = report.get("good", True)  # runs from before it was written have a verdict of older words, or none
    if "verdict" in report and ("adaptive" in report or not good):
        lines.append(f"{'verdict:' if good else 'WARNING'} {report['verdict']}")
    return lines
