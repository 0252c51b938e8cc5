"""The table of five searches for an As-ViT on the digits, beside the paper's."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from made_tables.markdown import read_json, stays, table
from made_tables.recipes import is_recipe, where

CONFIG = "demos/asvit.yaml"
SETTINGS = (
    "search.seeds=[0,1,2,3,4]",
    "search.steps=500",
    "baselines.topologies=32",
    "grow=null",
    "train=null",
    "data.demo.train_pictures=400",
)
TOGETHER = ("K2", "K3", "K4")
"""In one column where both rows have one value for all of them."""


def searches(folder: Path) -> str | None:
    """The means of every choice over the seeds, from the search.json that a run with `SETTINGS` wrote."""
    command = f"python tools/search_asvit.py --cfg configs/image/{CONFIG} run.dir={folder.parent.name}/{folder.name}"
    done = is_recipe(folder, "asvit_search", CONFIG, SETTINGS, result="search.json")
    if not done or not (content := read_json(folder / "search.json"))["complete"]:
        stays("asvit-searches", " ".join([command, *SETTINGS]))
        return None
    found = content["statistics"]
    means = {name: f"{one['mean']:.1f}" for name, one in found.items()}
    paper = {name: f"{one['paper_mean']:g}" for name, one in found.items()}
    rows: list[dict[str, Any]] = [
        {"of": f"{len(content['searches'])} seeds, digits", **means},
        {"of": "paper's Table 3, ImageNet", **paper},
    ]
    note = f"By the command above on {where(content.get('versions', {}))}."
    return table(_columns(rows), rows, f"{note} {_against_random(content['random'])}".strip())


def _columns(rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    one = all(len({row[name] for name in TOGETHER}) == 1 for row in rows)
    names = {name: name for name in rows[0] if name != "of"}
    if one:
        names[TOGETHER[0]] = f"{TOGETHER[0]}-{TOGETHER[-1]}"
        names = {name: heading for name, heading in names.items() if name not in TOGETHER[1:]}
    return {"of": "mean of", **names}


def _against_random(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on the search's own measure."""
    if not comparisons:
        return ""
    scores, best = (", ".join(f"{one[key]:.2f}" for one in comparisons) for key in ("score", "random_best"))
    mean = statistics.fmean(one["random_mean"] for one in comparisons)
    return (
        f"By the search's own measure, on weights it has not seen, the found topologies score {scores}; random ones {mean:.2f} "
        f"on average, and the best of each seed's random ones {best}."
    )
