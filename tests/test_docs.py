"""README and docs: their commands run, or are marked with the reason why not and at least parsed; their links lead somewhere.

A block of shell or Python runs in a folder that looks as if `make demo` and the demo of pictures had run there: the runs are
those of the first build, made very small, and so are the two demos' configurations. A block that needs hours, weights or other
machines stands below a comment `<!-- not run: the reason -->`; its tools must exist and know its arguments, its configurations
and their keys.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import train_net
import yaml
from markdown.extensions.toc import slugify

from revit.common.config.load import load, load_by_kind
from revit.image.options import ImageRun
from revit.image.search.options import AsViTSearchRun
from revit.video.options import VideoRun

ROOT = Path(__file__).resolve().parents[1]
FIRST_BUILD = ROOT / "tests" / "tools" / "first_build"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNS = {"image": ImageRun, "video": VideoRun}
LANGUAGES = {"sh", "python", "yaml", "toml", "text"}
FENCE = re.compile(r"(?:<!-- not run: ([^>]+) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`((?:\w+=\w+ )?python (?:tools|benchmarks)/[^`]+)`")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
PATH = re.compile(r"`((?:common|image|video|tools|tests|configs|benchmarks|docs)/[\w./*-]*[\w*])`")
EXAMPLES = {"common/methods/checkerboard.py", "docs/images/demo.svg"}
"""Paths of files that a reader makes."""
SCRIPT = re.compile(r"(?:tools|benchmarks|docs)/\w+\.py")


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    text: str
    reason: str
    """Why it is not run; empty: it is."""

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.text.split())[:60]}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for reason, language, text in FENCE.findall(page.read_text(encoding="utf-8")):
            yield Block(str(page.relative_to(ROOT)), language, text, reason)


BLOCKS = list(blocks())
RUN = [block for block in BLOCKS if not block.reason and block.page != "CONTRIBUTING.md"]


def commands(text: str) -> Iterator[list[str]]:
    """Words of every line, continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def script_of(words: list[str]) -> tuple[str, list[str]] | None:
    """The script of the project that a command starts, and its arguments."""
    at = next((at for at, word in enumerate(words) if SCRIPT.fullmatch(word)), None)
    return None if at is None else (words[at], words[at + 1 :])


class Parsed(BaseException):
    """Not an Exception, which tools turn into an exit status."""

    def __init__(self, values: argparse.Namespace) -> None:
        self.values = values


@pytest.fixture
def only_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tools end where their arguments are read."""
    for name in ("parse_args", "parse_intermixed_args"):
        original = getattr(argparse.ArgumentParser, name)

        def stop(self: argparse.ArgumentParser, *arguments: Any, original: Any = original) -> None:
            raise Parsed(original(self, *arguments))

        monkeypatch.setattr(argparse.ArgumentParser, name, stop)
    monkeypatch.chdir(ROOT)


def start(script: str, arguments: list[str]) -> int:
    """Do what `python SCRIPT ARGUMENTS` does, in this process. Return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments])
        try:
            return importlib.import_module(Path(script).stem).main() or 0
        except SystemExit as end:  # --help, and mistakes
            return int(end.code or 0)


def arguments_of(script: str, arguments: list[str]) -> argparse.Namespace:
    """Return what the script's own parser makes of the arguments."""
    try:
        status = start(script, arguments)
    except Parsed as parsed:
        return parsed.values
    assert status == 0, f"{script} does not take {shlex.join(arguments)}"
    assert arguments == ["--help"], f"{script} reads its arguments in a way that this test does not know"
    return argparse.Namespace()


def check_configurations(script: str, values: argparse.Namespace) -> None:
    """Every configuration exists and knows the keys; FILE.yaml and what is in a run's folder are left out."""
    given = getattr(values, "cfg", None) or []
    for path in map(Path, given if isinstance(given, list) else [given]):
        if path.parts[0] != "configs":
            continue
        if script == "tools/search_asvit.py":
            load(AsViTSearchRun, path, values.overrides)
        else:
            # check_data takes lists and settings in one place.
            overrides = values.overrides if "overrides" in values else [text for text in values.data if "=" in text]
            load_by_kind(RUNS, path, overrides)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_blocks_are_written_in_a_language_that_is_checked(block: Block):
    assert block.language in LANGUAGES
    if block.language == "sh":
        done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "sh"], ids=str)
def test_commands_exist_and_know_their_arguments(block: Block, only_parse):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands(block.text):
        if words[0] == "make":
            assert set(words[1:]) <= set(targets)
        assert [word for word in words if word.startswith("configs/") and not (ROOT / word).exists()] == []
        if (found := script_of(words)) is not None and not found[0].startswith("docs/"):
            check_configurations(found[0], arguments_of(*found))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_inside_lines_know_their_arguments(page: Path, only_parse):
    for text in INLINE.findall(page.read_text(encoding="utf-8")):
        found = script_of(shlex.split(text.replace("\n", " ")))
        assert found is not None, text
        assert (ROOT / found[0]).is_file(), text
        if len(found[1]) > 0:
            arguments_of(*found)


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "yaml" and block.page.startswith("docs")], ids=str
)
def test_settings_are_settings(block: Block):
    overrides = [
        f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in yaml.safe_load(block.text).items()
    ]
    load(ImageRun, ROOT / "configs" / "image" / "deit_small.yaml", overrides)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after `make demo`, on the scale of a test."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "configs", folder / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, kind, run in (("clips", "video", "runs/demo"), ("pictures", "image", "runs/image_demo")):
            settings = yaml.safe_load((FIRST_BUILD / name / "config.yaml").read_text())
            settings["run"] |= {"dir": run, "speed_seconds": 0}
            config = folder / "configs" / kind / "demo.yaml"
            config.write_text(yaml.safe_dump(settings))
            assert train_net.main(["--cfg", str(config), "--stage", "data"]) == 0
            shutil.copytree(FIRST_BUILD / name, folder / run, dirs_exist_ok=True)
    shutil.copytree(folder / "runs" / "demo" / "data" / "test", folder / "clips" / "train")
    some = sorted((folder / "clips" / "train").rglob("*.mp4"))
    for name, clip in zip(("clip.mp4", "one.mp4", "two.mp4"), some):
        shutil.copy(clip, folder / name)
    return folder


@pytest.mark.parametrize("block", [block for block in RUN if block.language == "sh"], ids=str)
def test_commands_run(block: Block, place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    for words in commands(block.text):
        found = script_of(words)
        assert found is not None, f"{words[0]}: this test runs the project's scripts only; mark the block"
        assert start(*found) == 0, shlex.join(words)


@pytest.mark.parametrize("block", [block for block in RUN if block.language == "python"], ids=str)
def test_python_runs(block: Block, place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    exec(compile(block.text, block.page, "exec"), {})


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    """Those between the pages of docs/ are checked where the site is built."""
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = ROOT / path
        assert target.is_file(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [slugify(heading, "-") for heading in headings], f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_exist(page: Path):
    named = set(PATH.findall(page.read_text(encoding="utf-8"))) - EXAMPLES
    places = (ROOT, ROOT / "configs")  # tables of methods leave the first folder out
    assert [path for path in named if not any([*at.glob(path), *at.glob(f"{path}.yaml")] for at in places)] == []


def script(name: str) -> ModuleType:
    """Load docs/NAME.py."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_are_what_their_script_draws():
    for name, draw in script("figures").FIGURES.items():
        assert (ROOT / "docs" / "images" / f"{name}.svg").read_text(encoding="utf-8") == draw().svg()


def test_the_front_pages_picture_is_drawn_from_a_report(tmp_path: Path):
    report = json.loads((FIRST_BUILD / "clips" / "report.json").read_text())
    script("picture").draw(report, tmp_path / "demo.svg")
    assert 10_000 < (tmp_path / "demo.svg").stat().st_size < 150_000
