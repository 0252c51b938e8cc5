"""Whether probabilities mean what they say, as a figure and in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from revit.common.evaluation.record import ADAPTIVE
from revit.common.report.plots import svg
from revit.common.report.runs import RunReport
from revit.common.report.tables import shown

FEW = 10
"""Answers of a bin below which its share of right ones says little; such bins are drawn hollow."""


def reliability_parts(run: RunReport, key: str) -> dict[str, Any]:
    """Return what the page shows of the run's calibration: `calibration_plot` and `calibration_said`; nothing of older runs."""
    found = run.content.get("reliability")
    if not isinstance(found, Mapping) or not found:
        return {}
    policy = ADAPTIVE if ADAPTIVE in found else run.content["fixed"][0]["grid"]
    one = found.get(policy)
    if not isinstance(one, Mapping) or not one.get("bins"):
        return {}
    others = ", ".join(f"{name} {shown(values['ece'])}" for name, values in found.items() if name != policy)
    off = "high" if one["bias"] > 0 else "low"
    several = run.has_several_labels
    said = (
        f"Expected calibration error {shown(one['ece'])} points ({policy}{'; ' + others if others else ''}): the mean distance "
        f"between a probability and how often it is right. On the whole probabilities are {abs(one['bias']):.1f} points too {off}. "
        f"{'Every class of every sample counts, with the probability of a yes.' if several else ''}"
    )
    return {"calibration_plot": _plot(one["bins"], key, several), "calibration_said": said.strip()}


def _plot(bins: list[Mapping[str, Any]], key: str, several: bool) -> str:
    def draw(axes: Any) -> None:
        axes.plot([0, 100], [0, 100], linestyle=":", color="#555555")
        points = [(one["probability"], one["right"]) for one in bins]
        axes.plot(*zip(*points), color="C0", linewidth=1.3)
        for full in (True, False):
            some = [point for point, one in zip(points, bins) if (one["answers"] >= FEW) == full]
            if some:
                axes.plot(*zip(*some), "o", color="C0", fillstyle="full" if full else "none", markersize=6)
        axes.set(
            xlabel="probability %", ylabel="has the label %" if several else "right %", xlim=(-3, 103), ylim=(-3, 103)
        )

    return svg(draw, key, "share of right answers against their probability")
