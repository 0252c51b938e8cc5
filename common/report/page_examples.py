"""The page's part with examples by assigned length."""

from __future__ import annotations

import base64
import io
import os
from typing import Any

from PIL import Image

from revit.common.evaluation.record import ADAPTIVE, Example, Seen


def example_parts(seen: Seen) -> dict[str, Any]:
    """What the template wants of examples: for each class the pictures at each length, longest first."""
    if seen.lengths is None or not seen.examples:
        return {}
    kinds: dict[int, list[list[dict[str, Any]]]] = {}
    for example in seen.examples:
        cells = kinds.setdefault(int(seen.targets[example.row]), [[] for _ in seen.grids])
        if (shown := _shown(seen, example)) is not None:
            cells[int(seen.lengths[example.row, 0])].append(shown)
    several = any(len(example.frames) > 1 for example in seen.examples)
    return {
        "examples": [
            {
                "name": seen.label_names[number],
                "cells": [{"length": grid, "shown": shown} for grid, shown in zip(seen.grids, cells)],
            }
            for number, cells in kinds.items()
        ],
        "strips": " Of every clip some frames, evenly spaced." if several else "",
    }


def _shown(seen: Seen, example: Example) -> dict[str, Any] | None:
    """None for what is no picture."""
    frames = []
    for frame in example.frames:
        try:
            with Image.open(io.BytesIO(frame), formats=["JPEG"]) as picture:
                width, height = picture.size
        except OSError:
            return None
        source = f"data:image/jpeg;base64,{base64.b64encode(frame).decode()}"
        frames.append({"source": source, "width": width, "height": height})
    probability = float(seen.probabilities[ADAPTIVE][example.row])
    return {"frames": frames, "title": f"{os.path.basename(example.name)}, {100 * probability:.0f} % sure"}
