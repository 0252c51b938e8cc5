"""Whether a finished run is that of a configuration as it reads now: what a table says of a command has to be so."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from revit.common.config.load import load
from revit.common.system.errors import UserError
from revit.image.options import ImageRun
from revit.image.search.run_options import AsViTSearchRun
from revit.video.options import VideoRun

CONFIGS = Path(__file__).parents[2] / "configs"
RUN_OPTIONS: Mapping[str, Any] = {"image": ImageRun, "video": VideoRun, "asvit_search": AsViTSearchRun}
SEEDS = ("run.seed", "data.demo.seed")


def is_recipe(
    folder: Path,
    kind: str,
    config: str = "demo.yaml",
    overrides: Sequence[str] = (),
    free: Sequence[str] = (),
    result: str = "report.json",
) -> bool:
    """Whether `folder` holds `result`, by `config` (below the configurations of its kind) and `overrides`, but for its place
    and the numbers `free`. A run with other settings is named on standard error."""
    if not (folder / result).is_file():
        return False
    same = [f"{key}=0" for key in free]
    path = CONFIGS / ("video" if kind == "video" else "image") / config
    try:
        seen = load(RUN_OPTIONS[kind], folder / "config.yaml", same)
    except UserError as error:
        print(f"{folder} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
        return False
    wanted = load(RUN_OPTIONS[kind], path, [*overrides, f"run.dir={seen.run.dir}", *same])
    if seen != wanted:
        print(f"{folder} is left out: its settings are not those of {path}; remove it", file=sys.stderr)
    return bool(seen == wanted)


def where(versions: Mapping[str, str]) -> str:
    """`AMD EPYC, 2 cores, avx2, python 3.11.7, torch 2.15.0`, of the versions that a run writes."""
    known = [f"{name} {versions[name]}" for name in ("python", "torch") if name in versions]
    return ", ".join([versions.get("machine", "an unnamed machine"), *known])
