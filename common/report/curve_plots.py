"""Plots of how a run trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from revit.common.report.curves import Curve, Training
from revit.common.report.plots import draw_legend, legend_label, svg


def loss_plot(training: Training, key: str) -> str:
    """Loss over updates, a line for each token length."""
    return _curves(training.loss, key, "updates", "loss")


def rate_plot(training: Training, key: str) -> str:
    """Learning rate over updates."""
    return _curves({"learning rate": training.learning_rate}, key, "updates", "learning rate")


def val_plot(training: Training, key: str) -> str:
    """Top-1 on the val list over epochs, a line for each token length."""
    return _curves(training.top1, key, "epochs", "top-1 % on val")


def _curves(curves: Mapping[str, Curve], key: str, x: str, y: str) -> str:
    def draw(axes: Any) -> None:
        for name, curve in curves.items():
            axes.plot(
                *zip(*curve),
                "-" if len(curve) > 12 else "o-",
                markersize=3,
                label=legend_label(name),
                linewidth=1.3,
            )
        axes.set(xlabel=x, ylabel=y)
        if len(curves) > 1:
            draw_legend(axes, 4)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)

    return svg(draw, key, f"{y} over {x}")
