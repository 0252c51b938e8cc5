"""Single samples on the report's page: examples with their pictures, and the table of all."""

from __future__ import annotations

import base64
import copy
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from revit.common.evaluation.examples import cells_of
from revit.common.evaluation.record import EvaluationRecord

MOST_ROWS = 2000
"""Samples of the page's table, beyond which a browser gets slow."""
SAMPLE_COLUMNS = {
    "path": "file",
    "label": "label",
    "predicted": "answer",
    "probability": "probability",
    "grid": "token length",
    "said": "right",
}
Rows = Sequence[Mapping[str, str]]


def sample_parts(samples: Rows) -> dict[str, Any]:
    """Return rows of predictions.csv for the table: what could not be read first, then mistakes, the surest first, then the rest;
    the number of all; and the folder that all are below."""

    def order(row: Mapping[str, str]) -> tuple[bool, bool, float]:
        return not row["error"], row["correct"] == "1", -_surest(row)

    words = {"1": "yes", "0": "no", "": "not read"}
    try:
        below = os.path.commonpath([os.path.dirname(row["path"]) for row in samples])
    except ValueError:  # none, or on several drives
        below = ""
    rows = []
    for row in sorted(samples, key=order)[:MOST_ROWS]:
        text = row["probability"]
        name = os.path.relpath(row["path"], below) if below else row["path"]
        part = f" [{float(row['start']):g}-{float(row['end']):g}]" if row.get("start") else ""
        rows.append(
            dict(row)
            | {"path": name + part, "said": words[row["correct"]]}
            | {
                "predicted": row["predicted"] or row["error"],
                "probability": f"{float(text):.3f}" if text.count(".") == 1 else text,
            }
        )
    return {"samples": rows, "num_samples": len(samples), "below": below}


def _surest(row: Mapping[str, str]) -> float:
    """Return the largest of the probabilities of a row, of which there are several where it may have several labels."""
    parts = row["probability"].replace("|", ";").split(";")
    return max((float(part) for part in parts if part), default=0.0)


def example_parts(record: EvaluationRecord, samples: Rows) -> list[dict[str, Any]]:
    """Return for each class of the record's examples its pictures: right ones at each grid that has any, and the mistakes.

    samples: rows of predictions.csv, from which answers are quoted; empty where there is no such file.
    """
    places, policy = cells_of(record), record.policy
    answered = [row for row in samples if not row["error"]]  # in the order of the list, as ids count
    rank = record.ids.argsort().argsort()
    lengths = (
        [f"right answers at {grid}" for grid in record.grids] if record.grid_index is not None else ["right answers"]
    )
    empty: list[dict[str, Any]] = [{"length": name, "shown": [], "wrong": False} for name in lengths]
    empty.append({"length": "wrong answers", "shown": [], "wrong": True})
    classes: dict[int, list[dict[str, Any]]] = {}
    for example in record.examples:
        row, place = example.row, int(places[example.row])
        number, wrong = int(record.targets[row]), place == len(record.grids)
        if number not in classes:
            classes[number] = copy.deepcopy(empty)
        said = record.label_names[int(record.predictions[policy][row])]
        if len(answered) == len(record.ids):
            said = answered[int(rank[row])]["predicted"] or "nothing"
        sure = f"{100 * float(record.probabilities[policy][row]):.0f} %"
        try:
            frames = [{"source": data_url("jpeg", data), "size": _size(data)} for data in example.frames]
        except OSError:  # one of them is no picture
            continue
        if frames:
            name, answer = os.path.basename(example.name), f"{said}, {sure}" if wrong else sure
            classes[number][-1 if wrong else place]["shown"].append(
                {"frames": frames, "title": f"{name}: {said}, {sure} sure", "answer": answer}
            )
    # Without a place where nothing is to be seen of any class.
    used = [at for at in range(len(empty)) if any(cells[at]["shown"] for cells in classes.values())]
    return [
        {"name": record.label_names[number], "cells": [cells[at] for at in used]} for number, cells in classes.items()
    ]


def _size(jpeg: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
        return picture.size


def data_url(kind: str, data: bytes) -> str:
    """Return a picture as the address of itself."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
