"""Opens a report's page in a headless Chromium and fails on whatever would disturb its reader.

    python benchmarks/page.py runs/demo/report.html [--shots FOLDER]

At a desktop's and at a phone's width: every picture is there, nothing was written to the console, nothing was asked of a
network, and the page is no wider than its window. Wants Chromium (Debian: apt-get install chromium) and no other package:
it is spoken to over a pipe, in its DevTools protocol.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revit.common.system.command_line import parse, parser, tool
from revit.common.system.errors import UserError

WIDTHS = {"desktop": 1280, "phone": 390}
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMEOUT = 60.0
"""Seconds, for each answer."""
PROBE = """(() => {
const images = [...document.images], root = document.documentElement;
return JSON.stringify({
  pictures: images.length,
  broken: images.filter((one) => !one.complete || !one.naturalWidth).length,
  drawings: document.querySelectorAll("svg").length,
  tables: document.querySelectorAll("table").length,
  empty: [...document.querySelectorAll("svg")].filter((one) => one.getBoundingClientRect().height < 50).length,
  width: root.scrollWidth, window: root.clientWidth, height: root.scrollHeight});
})()"""


class Chromium:
    """A headless browser with one page. Closing ends it."""

    def __init__(self, program: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        # Chromium reads from 3 and writes to 4; ours lie above, so that moving one there does not close another.
        (commands_out, commands_in), (answers_out, answers_in) = os.pipe(), os.pipe()
        high = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (commands_out, answers_in)]
        quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
        own = ("--remote-debugging-pipe", f"--user-data-dir={self._folder.name}")
        self._process = subprocess.Popen(
            [program, *quiet, *own, "about:blank"],
            preexec_fn=lambda: (os.dup2(high[0], 3), os.dup2(high[1], 4)),
            pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for one in (commands_out, answers_in, *high):
            os.close(one)
        self._commands, self._answers = commands_in, answers_out
        self._rest, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        targets = self.ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command; what happens meanwhile goes to `events`. UserError if there is none."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read(TIMEOUT)
            if found is None:
                raise UserError(f"Chromium does not answer {method}")
            if found.get("id") == self._number:
                if "error" in found:
                    raise UserError(f"Chromium refuses {method}: {found['error'].get('message')}")
                return dict(found["result"])
            self.events.append(found)

    def open(self, page: Path, width: int) -> None:
        """Opens a file in a window of that width and waits until all of it is there."""
        mobile = width < 600
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=mobile
        )
        self.events.clear()
        self.ask("Page.navigate", url=page.resolve().as_uri())
        end = time.monotonic() + TIMEOUT
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            event = self._read(max(0.0, end - time.monotonic()))
            if event is None:
                raise UserError(f"{page}: Chromium does not get done with it")
            self.events.append(event)
        while (event := self._read(0.5)) is not None:  # what comes late
            self.events.append(event)

    def probe(self) -> dict[str, Any]:
        """What there is in the page."""
        return dict(json.loads(self.ask("Runtime.evaluate", expression=PROBE)["result"]["value"]))

    def shot(self, path: Path) -> None:
        """The whole page as a PNG file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """Ends it."""
        os.close(self._commands)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._answers)
        self._folder.cleanup()

    def _read(self, seconds: float) -> dict[str, Any] | None:
        """The next message, None if none comes in that time."""
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._answers, 1 << 20) if ready else b""
            if not part:
                return None
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(text))


def problems_of(events: Sequence[dict[str, Any]], found: dict[str, Any], page: Path) -> list[str]:
    """What is wrong with a page that was opened."""
    problems = []
    for event in events:
        told = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            url = told["request"]["url"]
            if url != page.resolve().as_uri() and not url.startswith("data:"):
                problems.append(f"asks for {url}")
        elif event.get("method") == "Log.entryAdded":
            problems.append(f"console: {told['entry'].get('text')}")
        elif event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            problems.append(f"console: {json.dumps(told)[:300]}")
    if found["broken"] or found["empty"]:
        problems.append(f"{found['broken']} pictures and {found['empty']} drawings are not there")
    if not found["tables"]:
        problems.append("no table in it")
    if found["width"] > found["window"]:
        problems.append(f"wider than its window: {found['width']} of {found['window']} pixels")
    return problems


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
    problems = []
    browser = Chromium(program)
    try:
        for name, width in WIDTHS.items():
            browser.open(values.page, width)
            found = browser.probe()
            print(f"{name}: {json.dumps(found)}")
            problems += [f"{name}: {one}" for one in problems_of(browser.events, found, values.page)]
            if values.shots:
                browser.shot(values.shots / f"{name}.png")
    finally:
        browser.close()
    for problem in problems:
        print(problem, file=sys.stderr)
    print("the page is not sound" if problems else "the page is sound")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
