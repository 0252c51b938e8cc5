"""What a run is worth, in plain words, with what to do about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from revit.common.evaluation.intervals import Z95, wilson

NEARLY_ALL = 0.95
"""Share of the inputs at one grid from which on the assigner hardly chooses."""


class Verdict(NamedTuple):
    """A verdict on a run."""

    text: str
    good: bool
    """True if nothing has to be done about it."""


def verdict(report: Mapping[str, Any], asks: bool = True) -> Verdict:
    """Judge the figures of `adaptive_report`; older runs' may lack `chance`, `inputs`, and intervals.

    The worst news counts: a model that only guesses; a fixed grid that is as good as the assigner and cheaper; an assigner no
    better than the same grids dealt out at random. asks: whether the assigner was asked; where not, it is not judged. Where
    calibration decided how grids are given out, that comes last.
    """
    judged, said = _judged(report, asks), report.get("length_rule", {}).get("said")
    return judged if said is None else Verdict(f"{judged.text}; {said}", judged.good)


def _judged(report: Mapping[str, Any], asks: bool) -> Verdict:
    best = max(row["top1"] for row in (*report["fixed"], report.get("adaptive", report["fixed"][0])))
    num, inputs, chance = report["samples"]["evaluated"], report.get("inputs", "samples"), report.get("chance")
    if chance is not None and 100 * wilson(best / 100, num)[0] <= chance:
        return Verdict(
            f"The model knows no more than a guess: at best {best:.1f} % of {num:,} {inputs} right, always saying the "
            f"commonest class gets {chance:.1f} %. Look at what it sees (train_net --show-batch FILE.png), train longer "
            "(train.schedule.epochs) or start from trained weights (start.source)",
            False,
        )
    if "adaptive" not in report or "random" not in report:
        return _of_fixed_grids(report)
    return _of_assigner(report, asks)


def _of_fixed_grids(report: Mapping[str, Any]) -> Verdict:
    longest, num = report["fixed"][0], report["samples"]["evaluated"]
    low, high = (100 * limit for limit in wilson(longest["top1"] / 100, num))
    several = longest.get("map") is not None
    text = f"{'labels and answers overlap' if several else 'top-1'} {longest['top1']:.2f} % (95 %: {low:.1f} to {high:.1f})"
    if several:
        text += f", mAP {longest['map']:.2f} %,"
    text += f" of {num:,} {report.get('inputs', 'samples')} at {longest['gmacs']:.4g} GMACs a view"
    if "chance" in report:
        text += f"; always saying the commonest class gets {report['chance']:.1f} %"
    return Verdict(text + _cheaper(report, longest), True)


def _of_assigner(report: Mapping[str, Any], asks: bool) -> Verdict:
    adaptive, longest, random = report["adaptive"], report["fixed"][0], report["random"]
    inputs = report.get("inputs", "samples")
    what, cost = "right" if longest.get("map") is None else "overlap", adaptive["gmacs"] / longest["gmacs"]
    measured = (
        f"{adaptive['top1']:.1f} % {what} at {_percent(cost)} of the cost of {longest['grid']} "
        f"({adaptive['top1'] - longest['top1']:+.1f} points)"
    )
    if not asks and "length_rule" in report:
        return Verdict(f"One length for all: {measured}", True)
    if not asks:
        return Verdict(f"The assigner was not asked, at this budget it costs more than it gains: {measured}", True)
    if cheaper := _cheaper(report, adaptive):
        most, share = max(adaptive["share"].items(), key=lambda one: one[1])
        given = f"every {inputs.removesuffix('s')}" if share == 1 else f"{_percent(share)} of the {inputs}"
        start = f"The assigner gave {given} {most}" if share >= NEARLY_ALL else "The assigner is not worth its cost"
        return Verdict(start + cheaper, False)
    gain, low, high = _gain(report)
    against = (
        f"the same lengths dealt out at random get {random['top1']:.1f} % ({gain:+.1f} points for the assigner, "
        f"95 %: {low:+.1f} to {high:+.1f})"
    )
    cascade = report.get("cascade")
    other = (
        ""
        if cascade is None
        else f"; a confidence cascade, without an assigner, gets {cascade['top1']:.1f} % at "
        f"{_percent(cascade['gmacs'] / longest['gmacs'])} of it"
    )
    if low > 0:
        return Verdict(f"The assigner pays: {measured}; {against}{other}", True)
    fixed = " or ".join(
        f"--grid {row['grid']} ({row['top1']:.1f} % at {_percent(row['gmacs'] / longest['gmacs'])})"
        for row in report["fixed"]
    )
    worth = "The assigner chooses no better than chance" if gain <= 0 else "The assigner cannot be told from chance"
    num = report["samples"]["evaluated"]
    return Verdict(
        f"{worth} on {num:,} {inputs}: {measured}; {against}. One length for all costs no assigner: {fixed}", False
    )


def _cheaper(report: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Say which is the cheapest fixed grid that answers at least as well as a row, at less cost; nothing where there is none."""
    as_good = [one for one in report["fixed"] if one["gmacs"] < row["gmacs"] and one["top1"] >= row["top1"]]
    if not as_good:
        return ""
    best = min(as_good, key=lambda one: float(one["gmacs"]))
    low, high = row.get("gain_over", {}).get(best["grid"], {}).get("interval", (-math.inf, math.inf))
    alone = "for all" if row.get("share", {}).get(best["grid"], 0) >= NEARLY_ALL else "alone"
    worth = "better" if high < 0 else "as good"
    known = f"; 95 % of the difference: {-high:+.1f} to {-low:+.1f} points" if math.isfinite(low) else ""
    return (
        f"; {best['grid']} {alone} is {worth} ({best['top1']:.1f} against {row['top1']:.1f} %{known}) at "
        f"{_percent(best['gmacs'] / row['gmacs'])} of the cost: --grid {best['grid']}"
    )


def _gain(report: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return the assigner's gain over random grids in points, and its 95 % interval: the paired one, else, where a run did not
    write it, that of one of the two accuracies, a cautious yardstick as both answer the same samples."""
    adaptive, random = report["adaptive"], report["random"]
    gain = float(adaptive["top1"] - random["top1"])
    if "interval" in adaptive:
        low, high = adaptive["interval"]
        return gain, float(low), float(high)
    share = adaptive["top1"] / 100
    half = 100 * Z95 * math.sqrt(max(share * (1 - share), 0.0) / max(report["samples"]["evaluated"], 1))
    return gain, gain - half, gain + half


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
