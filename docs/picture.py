"""Draw the front page's picture from a run's report: python docs/picture.py runs/demo/report.json docs/images/demo.svg"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

MARKS = {
    "oracle": ("o", "#9e9e9e", "oracle: the shortest grid that is right"),
    "adaptive": ("*", "#f57c00", "adaptive: the assigner picks"),
    "cascade": ("D", "#00897b", "cascade: until it is confident"),
    "random": ("X", "#8d6e63", "random grids, same shares"),
}


def draw(report: dict[str, Any], out: Path) -> None:
    """Draw top-1 against GMACs. The card is light, so that the picture reads on light and on dark pages."""
    plt.rcParams |= {"svg.hashsalt": "revit", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained", facecolor="#fafafa")
    axes.set_facecolor("#fafafa")
    fixed = sorted((row["gmacs"], row["top1"], row["grid"]) for row in report["fixed"])
    axes.plot(*zip(*((x, y) for x, y, _ in fixed)), "s-", color="#3f51b5", markersize=8, label="fixed grids")
    for x, y, grid in fixed:
        axes.annotate(grid, (x, y), (0, -16), textcoords="offset points", ha="center", color="#3f51b5")
    for name, (mark, colour, label) in MARKS.items():
        if row := report.get(name):
            axes.plot(
                row["gmacs"],
                row["top1"],
                mark,
                color=colour,
                markersize=16 if mark == "*" else 8,
                label=f"{label} ({row['top1']:.2f} %)",
                zorder=3,
            )
    longest, adaptive = fixed[-1], report["adaptive"]
    axes.set_xlim(0, 1.1 * longest[0])
    axes.set_ylim(min(y for _, y, _ in fixed) - 4, 100)
    axes.set_xlabel("GMACs a clip, assigner included")
    axes.set_ylabel("top-1, %")
    share = adaptive["gmacs"] / longest[0]
    axes.set_title(
        f"Toy data, moving digits: adaptive {adaptive['top1']:.2f} % at {100 * share:.0f} % of the GMACs of "
        f"{longest[2]} ({longest[1]:.2f} %)",
        fontsize=11,
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    report, out = sys.argv[1:]
    draw(json.loads(Path(report).read_text(encoding="utf-8")), Path(out))
