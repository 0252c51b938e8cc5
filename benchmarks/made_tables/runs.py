"""Tables of what finished runs showed: accuracy, and the machine that their report.json names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ablations
from made_tables.markdown import listed, read_json, stays, table
from made_tables.recipes import SEEDS, is_recipe, where

from revit.common.report.compared import compared_columns, compared_rows
from revit.common.report.runs import RunReport, read_runs


def seeds(kind: str, folder: Path, pattern: str) -> str | None:
    """The demo's recipe, a row for every seed: the runs `folder/pattern` with the seed for N."""
    command = f"python tools/train_net.py --cfg configs/{kind}/demo.yaml run.dir={folder.name}/{pattern} run.seed=N data.demo.seed=N"
    found = _by_seed(kind, folder, pattern)
    if not found:
        stays(f"seeds-{kind}", f"OMP_NUM_THREADS=1 {command}, for N = 0, 1, ...")
        return None
    lengths = [one["grid"] for one in found[0][1].content["fixed"]]
    longest = lengths[0]
    columns = {
        "seed": "seed",
        **{grid: grid for grid in lengths},
        "adaptive": "adaptive",
        "cost": f"at GMACs of {longest}",
        "random": "random, same shares",
        "cascade": "confidence cascade, same cost",
        "oracle": "oracle",
        "samples": "test clips" if kind == "video" else "test pictures",
    }
    rows = [{"seed": seed, **_seed_row(run, longest)} for seed, run in found]
    return table(columns, rows, _note(f"`{command}` with `OMP_NUM_THREADS=1`", [run for _, run in found]))


def _by_seed(kind: str, folder: Path, pattern: str) -> list[tuple[int, RunReport]]:
    """Finished runs of the demo in the order of their seeds."""
    wanted = re.compile(re.escape(pattern).replace("N", r"(\d+)"))
    names = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
    found = [(int(match[1]), folder / name) for name in names if (match := wanted.fullmatch(name))]
    done = [(seed, path) for seed, path in sorted(found) if is_recipe(path, kind, free=SEEDS)]
    return [(seed, run) for seed, path in done for run in read_runs([path])]


def _seed_row(run: RunReport, longest: str) -> dict[str, Any]:
    content, top1 = run.content, {one["grid"]: one["top1"] for one in run.content["fixed"]}
    adaptive, random = content["adaptive"], content["random"]
    gmacs = {one["grid"]: one["gmacs"] for one in content["fixed"]}
    row = {grid: f"{value:.2f}" for grid, value in top1.items()}
    row |= {
        "adaptive": f"{adaptive['top1']:.2f} ({adaptive['top1'] - top1[longest]:+.2f})",
        "cost": f"{adaptive['gmacs'] / gmacs[longest]:.0%}",
        "random": f"{random['top1']:.2f} ({adaptive['top1'] - random['top1']:+.2f} for adaptive)",
        "cascade": f"{content['cascade']['top1']:.2f}" if "cascade" in content else None,
        "oracle": f"{content['oracle']['top1']:.2f}",
        "samples": run.num_evaluated,
    }
    return row


def demo(folder: Path) -> str | None:
    """`make demo`'s own run."""
    if not is_recipe(folder, "video", free=SEEDS):
        stays("demo", "make demo")
        return None
    run = read_runs([folder])[0]
    columns = {
        "length": "length",
        "top1": "top-1",
        "gmacs": "GMACs",
        "of_longest": f"of {run.content['fixed'][0]['grid']}",
        "per_second": "clips/s",
        "share": "share",
    }
    most = run.content["fixed"][0]["gmacs"]
    rows = []
    for row in run.rows():
        share = f"{row['share']:.1%} of adaptive" if row["share"] is not None else None
        if row["length"] == "adaptive":
            share = f"assigner {row['assigner_gmacs']:.4f} included"
        rate = row["per_second"]
        cells = {
            "length": row["length"],
            "top1": f"{row['top1']:.2f}",
            "gmacs": f"{row['gmacs']:.4f}",
            "of_longest": f"{row['gmacs'] / most:.0%}",
            "per_second": None if rate is None else f"{rate:.0f}",
            "share": share,
        }
        if row["length"] == "adaptive":
            cells = {key: cell and f"**{cell}**" if key != "share" else cell for key, cell in cells.items()}
        rows.append(cells)
    return table(columns, rows, _note("`make demo`", [run]))


def methods(kind: str, folder: Path) -> str | None:
    """Finished runs of benchmarks/compare_methods.py."""
    command = f"python benchmarks/compare_methods.py --kind {kind}"
    if not any(folder.rglob("report.json")):
        stays(f"methods-{kind}", command)
        return None
    runs = read_runs([folder])
    rows = compared_rows(runs)
    for row in rows:  # the folder says nothing that the reader needs
        row["run"] = Path(row["run"]).name
    return table(compared_columns(runs), rows, _note(f"`{command}`", runs))


def ablation(path: Path) -> str | None:
    """The rows of ReViT's tables on the digits, by benchmarks/ablations.py."""
    command = f"python benchmarks/ablations.py --seeds 1 --json {path.parent.name}/{path.name}"
    if not path.is_file():
        stays("ablations", command)
        return None
    content = read_json(path)
    note = f"By `{content['command']}` on {content['machine']}; {listed(content['versions'])}."
    return f"{ablations.table(content['rows'])}\n\n{note}\n"


def _note(command: str, runs: Sequence[RunReport]) -> str:
    said: Mapping[str, None] = dict.fromkeys(where(run.content.get("versions", {})) for run in runs)
    return f"By {command} on {'; '.join(said)}."
