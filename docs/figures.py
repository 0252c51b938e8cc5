"""Draw the figure of each method's page: python docs/figures.py [FOLDER] writes NAME.svg there (docs/images)."""

from __future__ import annotations

import math
import sys
from pathlib import Path

BLUE, PALE, GREY, ORANGE, INK = "#3f51b5", "#c5cae9", "#e0e0e0", "#f57c00", "#263238"
Position = tuple[float, float]


class Figure:
    """Lines of an SVG on a light card, which reads on light and on dark pages."""

    def __init__(self, width: int, height: int) -> None:
        self.size = width, height
        self.lines: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, fill: str, radius: float = 1) -> None:
        box = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"'
        self.lines.append(f'<rect {box} fill="{fill}" stroke="#fff"/>')

    def text(self, x: float, y: float, text: str, size: int = 13, fill: str = INK) -> None:
        place = f'x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}"'
        self.lines.append(f'<text {place} text-anchor="middle">{text}</text>')

    def arrow(self, start: Position, end: Position, colour: str = INK) -> None:
        angle = math.atan2(end[1] - start[1], end[0] - start[0])
        tips = [(end[0] - 7 * math.cos(angle + d), end[1] - 7 * math.sin(angle + d)) for d in (-0.45, 0.45)]
        head = " ".join(f"{x:.1f},{y:.1f}" for x, y in (end, *tips))
        ends = f'x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}"'
        self.lines.append(f'<line {ends} stroke="{colour}" stroke-width="1.5"/>')
        self.lines.append(f'<polygon points="{head}" fill="{colour}"/>')

    def curve(self, points: list[Position], colour: str) -> None:
        path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points) + " Z"
        self.lines.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')

    def grid(self, x: float, y: float, side: float, cells: int, fills: dict[int, str], other: str) -> None:
        """Draw `cells` x `cells` squares in a square of `side`; `fills`: number of a cell -> its colour."""
        one = side / cells
        for number in range(cells * cells):
            row, col = divmod(number, cells)
            self.rect(x + col * one, y + row * one, one, one, fills.get(number, other))

    def svg(self) -> str:
        width, height = self.size
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
        card = f'<rect width="{width}" height="{height}" rx="8" fill="#fafafa"/>'
        return "\n".join([head, card, *self.lines, "</svg>", ""])


def revit() -> Figure:
    figure = Figure(680, 250)
    figure.rect(20, 95, 64, 64, ORANGE, 4)
    figure.text(52, 178, "input")
    figure.arrow((88, 127), (128, 127))
    figure.rect(132, 102, 96, 50, INK, 6)
    figure.text(180, 132, "assigner", fill="#fff")
    for number, (cells, name) in enumerate(((6, "14x14"), (4, "10x10"), (3, "7x7"))):
        y = 15 + 76 * number
        figure.arrow((232, 127), (288, y + 32), BLUE if number == 2 else "#b0bec5")
        figure.grid(294, y, 64, cells, {}, BLUE if number == 2 else PALE)
        figure.text(388, y + 37, name)
        figure.arrow((416, y + 32), (452, 127 if number == 1 else 105 + 22 * number), "#b0bec5")
    figure.rect(456, 90, 96, 74, BLUE, 6)
    figure.text(504, 123, "one model", fill="#fff")
    figure.text(504, 142, "a head per grid", 11, "#fff")
    figure.arrow((556, 127), (592, 127))
    figure.text(632, 132, "class")
    figure.text(566, 36, "in training the longest grid", 11)
    figure.text(566, 51, "teaches the shorter ones", 11)
    return figure


def flexivit() -> Figure:
    figure = Figure(680, 200)
    figure.grid(30, 50, 96, 8, {}, ORANGE)
    figure.text(78, 170, "one kernel, 32x32 pixels")
    for x, cells, grid in ((250, 6, "5x5"), (410, 4, "15x15"), (570, 2, "30x30")):
        side = 12 * cells
        figure.grid(x - side / 2, 98 - side / 2, side, cells, {}, PALE)
        figure.text(x, 170, f"grid {grid}: {240 // int(grid.split('x')[0])} pixels")
    figure.arrow((136, 98), (206, 98))
    figure.text(171, 88, "PI-resize", 11)
    figure.text(410, 28, "of 240 pixels; each update draws one grid for its batch", 12)
    return figure


def dynamicvit() -> Figure:
    figure = Figure(680, 190)
    importance = sorted(range(100), key=lambda cell: math.dist(divmod(cell, 10), (4.2, 5.1)))
    for number, kept in enumerate((100, 70, 49, 34)):
        x = 20 + 170 * number
        figure.grid(x, 20, 110, 10, dict.fromkeys(importance[:kept], BLUE), "#424242")
        figure.text(x + 55, 152, f"{kept} %")
        if number:
            figure.arrow((x - 54, 75), (x - 6, 75))
            figure.text(x - 30, 64, "predictor", 11)
    figure.text(340, 177, "of the patch tokens after each stage", 12)
    return figure


def toe() -> Figure:
    figure = Figure(680, 200)
    seeds = dict.fromkeys(range(0, 64, 4), ORANGE)
    added = dict.fromkeys((2, 9, 13, 18, 21, 27, 30, 34, 37, 42, 46, 49, 53, 58, 61, 63), BLUE)
    steps = (("seeds", "evenly", seeds), ("expansion", "least similar", seeds | added))
    for number, (name, how, fills) in enumerate(steps):
        x = 30 + 190 * number
        figure.grid(x, 20, 112, 8, fills, GREY)
        figure.text(x + 56, 155, name)
        figure.text(x + 56, 175, how, 11)
        figure.arrow((x + 122, 76), (x + 180, 76))
    figure.grid(410, 20, 112, 8, dict.fromkeys(range(64), PALE) | seeds | added, PALE)
    figure.text(466, 155, "merging")
    figure.text(466, 175, "the rest, into the nearest", 11)
    figure.arrow((532, 76), (572, 76))
    figure.text(620, 72, "half, then")
    figure.text(620, 90, "3/4, then all")
    return figure


def asvit() -> Figure:
    figure = Figure(680, 200)
    angles = [2 * math.pi * step / 72 for step in range(72)]
    figure.curve([(110 + 52 * math.cos(t), 92 + 52 * math.sin(t)) for t in angles], ORANGE)
    figure.text(110, 180, "circle in the space of pictures")
    figure.arrow((190, 92), (236, 92))
    figure.rect(242, 62, 150, 60, INK, 6)
    figure.text(317, 89, "untrained network", fill="#fff")
    figure.text(317, 107, "norms off", 11, "#fff")
    figure.arrow((398, 92), (444, 92))
    radius = [48 + 17 * math.sin(3 * t + 0.5) + 12 * math.cos(7 * t) for t in angles]
    figure.curve([(550 + 1.3 * r * math.cos(t), 92 + r * math.sin(t)) for r, t in zip(radius, angles)], BLUE)
    figure.text(550, 180, "its length is the measure")
    return figure


def retokenize() -> Figure:
    figure = Figure(680, 200)
    shown = ((4, "40 % of training", "1/16 of the tokens"), (2, "30 %", "1/4"), (1, "30 %", "all"))
    for number, (times, share, tokens) in enumerate(shown):
        x, cells = 40 + 220 * number, 8 // times
        figure.grid(x, 20, 112, cells, {0: ORANGE}, PALE)
        figure.text(x + 56, 155, f"stride x{times}: {tokens}" if times > 1 else f"own stride: {tokens}")
        figure.text(x + 56, 175, share, 11)
        if number:
            figure.arrow((x - 98, 76), (x - 10, 76))
    return figure


FIGURES = {
    "revit": revit,
    "flexivit": flexivit,
    "dynamicvit": dynamicvit,
    "toe": toe,
    "asvit": asvit,
    "retokenize": retokenize,
}

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("images")
    for name, draw in FIGURES.items():
        (folder / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")
