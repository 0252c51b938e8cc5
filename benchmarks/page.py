"""Open a report's page in a headless Chromium and fail on whatever would disturb its reader.

    python benchmarks/page.py runs/demo/report.html [--shots FOLDER]

At a desktop's and at a phone's width: every picture is there, nothing was written to the console, nothing was asked of a
network (the page's own policy forbids it, and the browser writes to the console what it blocked), and the page is no wider
than its window. Wants Chromium (Debian: apt-get install chromium) and no other package.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

from revit.common.system.command_line import parse, parser, tool
from revit.common.system.errors import UserError

WIDTHS = {"desktop": 1280, "phone": 390}
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMEOUT = 120.0
"""Seconds, for each width."""
POLICY = "Content-Security-Policy\" content=\"default-src 'none'"
# The page stands in a frame of the wanted width: a window cannot be as narrow as a phone. The result becomes the title.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><style>body {{ margin: 0 }} iframe {{ border: 0; display: block }}</style>
<iframe width="{width}" height="{height}" srcdoc="{page}"></iframe>
<script>addEventListener("load", () => {{
const inner = document.querySelector("iframe").contentDocument, root = inner.documentElement;
const images = [...inner.images], drawings = [...inner.querySelectorAll("svg")];
document.title = JSON.stringify({{
  pictures: images.length,
  broken: images.filter((one) => !one.complete || !one.naturalWidth).length,
  drawings: drawings.length,
  tables: inner.querySelectorAll("table").length,
  empty: drawings.filter((one) => one.getBoundingClientRect().height < 50).length,
  width: root.scrollWidth, window: root.clientWidth, height: root.scrollHeight}});
}})</script>"""


def chromium(program: str, frame: Path, *options: str) -> tuple[str, list[str]]:
    """Open a file; return its document after it was loaded, and what was written to the console."""
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
    own = (f"--user-data-dir={frame.parent / 'profile'}", "--enable-logging=stderr", "--log-level=0")
    command = [program, *quiet, *own, *options, frame.as_uri()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise UserError(f"Chromium does not get done with the page in {TIMEOUT:g} s") from None
    return done.stdout, re.findall(r":CONSOLE[:(].*", done.stderr)


def look(program: str, page: Path, width: int, shot: Path | None) -> tuple[dict[str, Any], list[str]]:
    """Return what there is in the page at a width, and what is wrong with it; `shot` is where a picture of it goes."""
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"

        def write(height: int) -> None:
            frame.write_text(FRAME.format(width=width, height=height, page=escape(text)), encoding="utf-8")

        write(900)
        document, console = chromium(program, frame, "--dump-dom")
        title = re.search(r"<title>(\{.*?\})</title>", document)
        if title is None:
            raise UserError(f"Chromium does not show {page}")
        found: dict[str, Any] = json.loads(unescape(title[1]))
        if shot is not None:
            shot.parent.mkdir(parents=True, exist_ok=True)
            write(found["height"])
            size = f"--window-size={max(width, 500)},{found['height']}"
            chromium(program, frame, f"--screenshot={shot.resolve()}", size)
    problems = [f"console: {line[9:300]}" for line in console]
    if POLICY not in text:
        problems.append("its policy does not forbid requests")
    if found["broken"] or found["empty"]:
        problems.append(f"{found['broken']} pictures and {found['empty']} drawings are not there")
    if not found["tables"]:
        problems.append("no table in it")
    if found["width"] > found["window"]:
        problems.append(f"wider than its window: {found['width']} of {found['window']} pixels")
    return found, problems


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__ or "", "python benchmarks/page.py runs/demo/report.html --shots shots")
    arguments.add_argument("page", type=Path, help="what report.py --html wrote")
    arguments.add_argument(
        "--shots", type=Path, metavar="FOLDER", help="keep a picture of the page at each width"
    )
    values = parse(arguments, argv)
    if not values.page.is_file():
        raise UserError(f"{values.page}: no such file; python tools/report.py RUN_DIR --html {values.page}")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise UserError(f"no Chromium here (looked for {', '.join(NAMES)}); Debian: apt-get install chromium")
    sound = True
    for name, width in WIDTHS.items():
        shot = values.shots / f"{name}.png" if values.shots else None
        found, problems = look(program, values.page, width, shot)
        print(f"{name}: {json.dumps(found)}")
        for problem in problems:
            print(f"{name}: {problem}", file=sys.stderr)
        sound = sound and not problems
    print("the page is sound" if sound else "the page is not sound")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
