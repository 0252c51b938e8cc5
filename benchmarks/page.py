"""Open a report's page in a headless Chromium and fail on whatever would disturb its reader.

    python benchmarks/page.py runs/demo/report.html [--shots FOLDER]

At a desktop's and at a phone's width: every picture is there, nothing was written to the console, nothing was asked of a
network, tables sort, and the page is no wider than its window. Wants Chromium (Debian: apt-get install chromium) and no other package.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any

from revit.common.system.command_line import parse, parser, tool
from revit.common.system.errors import UserError

WIDTHS = {"desktop": 1280, "phone": 390}
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMEOUT = 120
"""Seconds."""
FRAME = """<body style="margin:0"><iframe src="{page}" style="border:0;width:{width}px;height:{height}px"></iframe><script>
const frame = document.querySelector("iframe");
function sorts(page) {{
  for (const table of page.querySelectorAll("table.sortable")) {{
    const texts = (column) => [...table.tBodies[0].rows].map((row) => row.cells[column].textContent);
    for (const [column, button] of [...table.querySelectorAll("th button")].entries()) {{
      const before = texts(column);
      button.click();
      const up = texts(column);
      button.click();
      const down = texts(column);
      if (up.join() !== down.reverse().join() || [...up].sort().join() !== before.sort().join()) return false;
    }}
    if (!table.querySelector("th[aria-sort=descending]")) return false;
  }}
  return true;
}}
onload = () => setTimeout(() => {{
  const page = frame.contentDocument, root = page.documentElement, images = [...page.images];
  const drawings = [...page.querySelectorAll("svg")];
  document.body.dataset.found = JSON.stringify({{
    pictures: images.length,
    broken: images.filter((one) => !one.complete || !one.naturalWidth).length,
    drawings: drawings.length,
    empty: drawings.filter((one) => one.getBoundingClientRect().height < 50).length,
    tables: page.querySelectorAll("table").length,
    sorted: sorts(page),
    asked: frame.contentWindow.performance.getEntriesByType("resource").map((one) => one.name),
    width: root.scrollWidth, window: root.clientWidth, height: root.scrollHeight}});
}}, 500);
</script>"""
"""Holds the page in a window of any width, and writes what is in it into its own body."""


def chromium(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it once. UserError where there is none, or it does not get done."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise UserError(f"no Chromium here (looked for {', '.join(NAMES)}); Debian: apt-get install chromium")
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
    with tempfile.TemporaryDirectory() as profile:
        # The frame may look into the page, which is another origin to it.
        own = ("--disable-web-security", f"--user-data-dir={profile}", "--enable-logging=stderr")
        command = [program, *quiet, *own, "--virtual-time-budget=10000", *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            raise UserError(f"Chromium does not get done in {TIMEOUT} s") from None


def look_at(page: Path, width: int, shot: Path | None) -> tuple[dict[str, Any], list[str]]:
    """Return what is in the page at that width, and what is wrong with it; `shot`: a picture of it."""
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        given = {"page": page.resolve().as_uri(), "width": width}
        frame.write_text(FRAME.format(**given, height=900))
        done = chromium("--dump-dom", f"--window-size={width},900", frame.as_uri())
        written = re.search(r'data-found="([^"]*)"', done.stdout)
        if written is None:
            raise UserError(f"{page}: Chromium does not get done with it: {done.stderr[-300:]}")
        found: dict[str, Any] = json.loads(unescape(written[1]))
        if shot is not None:
            shot.parent.mkdir(parents=True, exist_ok=True)
            frame.write_text(FRAME.format(**given, height=found["height"]))
            chromium(f"--screenshot={shot.resolve()}", f"--window-size={width},{found['height']}", frame.as_uri())
    asked = [url for url in found.pop("asked") if not url.startswith("data:")]
    problems = [f"asks for {url}" for url in asked]
    problems += [f"console: {line}" for line in done.stderr.splitlines() if ":CONSOLE" in line]
    if found["broken"] or found["empty"]:
        problems.append(f"{found['broken']} pictures and {found['empty']} drawings are not there")
    if not found["sorted"]:
        problems.append("a table does not sort when its headings are pressed")
    if not found["tables"]:
        problems.append("no table in it")
    if found["width"] > found["window"]:
        problems.append(f"wider than its window: {found['width']} of {found['window']} pixels")
    return found, problems


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__ or "", "python benchmarks/page.py runs/demo/report.html --shots shots")
    arguments.add_argument("page", type=Path, help="what report.py --html wrote")
    arguments.add_argument("--shots", type=Path, metavar="FOLDER", help="keep a picture of each width")
    values = parse(arguments, argv)
    if not values.page.is_file():
        raise UserError(f"{values.page}: no such file; python tools/report.py RUN_DIR --html {values.page}")
    sound = True
    for name, width in WIDTHS.items():
        found, problems = look_at(values.page, width, values.shots and values.shots / f"{name}.png")
        print(f"{name}: {json.dumps(found)}")
        for problem in problems:
            print(f"{name}: {problem}", file=sys.stderr)
        sound = sound and not problems
    print("the page is sound" if sound else "the page is not sound")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
