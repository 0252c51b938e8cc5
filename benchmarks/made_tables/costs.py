"""Tables that are counted, not measured: the same on every machine."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from made_tables.markdown import here, table

from revit.common.costs.flops import count
from revit.common.modality.costs import build, cost_rows

ROOT = Path(__file__).parents[2]
COSTS = {
    "config": "configuration",
    "grid": "grid",
    "gmacs": "GMACs a view",
    "gmacs_total": "all views",
    "params": "parameters",
    "published": "published GMACs",
}
PUBLISHED = {
    ("timesformer_8x224", "14x14"): "0.59 T, all views",
    ("timesformer_hr_16x448", "28x28"): "5.11 T, all views",
    ("timesformer_l_96x224", "14x14"): "7.14 T, all views",
    ("revit_timesformer_8x224", "14x14"): "0.39 T adaptive, all views",
    ("revit_timesformer_hr_16x448", "28x28"): "3.68 T adaptive, all views",
    ("deit_small", "14x14"): "4.6",
    ("lvvit_small", "14x14"): "6.6",
    ("asvit_small", "56x56"): "5.3",
    ("asvit_base", "56x56"): "8.9",
    ("asvit_large", "56x56"): "22.6",
}
"""What the papers say, in their own unit (1 T is 1000 GMACs)."""
RATES = (0.9, 0.8, 0.7, 0.6, 0.5)
DYNAMICVIT = {"DeiT-S": "dynamicvit_deit_small_r0.7", "LV-ViT-S": "dynamicvit_lvvit_small_r0.7"}
PLAIN = {"DeiT-S": "deit_small", "LV-ViT-S": "lvvit_small"}
ASVIT = {"asvit_small": "5.3, 29.0 M", "asvit_base": "8.9, 52.6 M", "asvit_large": "22.6, 88.1 M"}
"""Published GMACs and parameters."""


def costs(kind: str) -> str:
    """Of all configurations of a kind."""
    kinds = _kinds()
    rows: list[dict[str, Any]] = []
    for path in sorted((ROOT / "configs" / kind).glob("*.yaml")):
        first = re.search(r"^kind: (\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if first and first[1] in kinds.KINDS:  # a search has no model yet
            options, found = kinds.load_run(path)
            rows += [row for row in cost_rows(path.stem, options, found.package) if "rule" not in row]
    for row in rows:
        row["published"] = PUBLISHED.get((row["config"], row["grid"]))
    return table(COSTS, rows, f"By `python tools/flops.py`, {here('fvcore')}.")


def dynamicvit() -> str:
    """GMACs of DynamicViT's two backbones at the paper's keeping rates."""
    rows = []
    for name, config in DYNAMICVIT.items():
        plain, _ = _counted(PLAIN[name])
        row: dict[str, Any] = {"model": f"{name} ({plain:.3f})"}
        for rate in RATES:
            gmacs, _ = _counted(config, [f"methods.dynamicvit.keep_rate={rate}"])
            row[str(rate)] = f"{gmacs:.3f}"
        rows.append(row)
    columns = {"model": "model, GMACs at a keeping rate of", **{str(rate): str(rate) for rate in RATES}}
    command = "python tools/flops.py --cfg configs/image/dynamicvit_deit_small_r0.7.yaml methods.dynamicvit.keep_rate=0.9"
    return table(columns, rows, f"By `{command}` and so on, {here('fvcore')}.")


def asvit() -> str:
    """Costs of the published models, with and without a position table."""
    rows = []
    for config, published in ASVIT.items():
        found = [_counted(config, [f"model.position={position}"]) for position in ("none", "absolute")]
        millions = " / ".join(f"{params / 1e6:.2f} M" for _, params in found)
        gmacs = f"{found[0][0]:.4g}"
        rows.append({"model": f"`{config}`", "gmacs": gmacs, "params": millions, "published": published})
    columns = {
        "model": "model",
        "gmacs": "GMACs",
        "params": "parameters, `position` none / absolute",
        "published": "published",
    }
    command = "python tools/flops.py --cfg configs/image/asvit_small.yaml model.position=absolute"
    return table(columns, rows, f"By `{command}` and so on, {here('fvcore')}.")


def _counted(config: str, overrides: Sequence[str] = ()) -> tuple[float, int]:
    """GMACs at the longest grid, and parameters, of a configuration of pictures."""
    options, kind = _kinds().load_run(ROOT / "configs" / "image" / f"{config}.yaml", overrides)
    model, _ = build(options, kind.package)
    one = count(model, kind.package.input_shape(options), model.grids[0])
    return one.gmacs, one.params


def _kinds() -> Any:
    if str(ROOT / "tools") not in sys.path:
        sys.path.append(str(ROOT / "tools"))
    import kinds

    return kinds
