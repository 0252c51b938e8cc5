"""Who may import whom: common <- image, common <- video, tools import all; image and video never each other.

Inside `common/` there is one order of rooms. A file uses its own room and those before it, at its top and inside functions.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("common", "image", "video")
MAY_IMPORT = {
    "common": {"common"},
    "image": {"common", "image"},
    "video": {"common", "video"},
    "tools": set(FOLDERS),
    "tests": set(FOLDERS),
    "benchmarks": set(FOLDERS),
}


ROOMS = (
    *("system", "config", "models", "costs", "drawing", "data", "methods", "weights", "modality", "timing"),
    *("serving", "evaluation", "training", "report", "speed"),
)
"""The folders of `common/`, each before those that may use it."""
MAX_MODULES = 18
"""Python files that one folder may hold; more want rooms of their own."""


def imported_modules(source: str) -> set[str]:
    """Dotted names of everything a file imports, `from a import b` as both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {"." * node.level + (node.module or "")}
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module}
    return names


def later(room: str, than: str) -> bool:
    """Say whether `room` has no place in the order, or one after `than`."""
    return room not in ROOMS or ROOMS.index(room) > ROOMS.index(than)


def violations(source: str, folder: str, room: str | None = None) -> list[str]:
    """Name what a file of `folder`, for common/ in the room `room`, imports against the rules."""
    found = []
    for name in sorted(imported_modules(source)):
        parts = name.split(".")
        if name.startswith("."):
            found.append(f"{name}: relative import; write revit.{folder}...")
        elif parts[0] in FOLDERS:
            found.append(f"{name}: import without the root makes a second copy; write revit.{name}")
        elif parts[0] == "revit" and len(parts) > 1 and parts[1] not in MAY_IMPORT[folder]:
            found.append(f"{name}: {folder} may not import {parts[1]}")
        elif room is not None and parts[:2] == ["revit", "common"] and len(parts) > 2 and later(parts[2], room):
            found.append(f"{name}: {room} comes before {parts[2]} in common/")
    return found


FILES = sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_layers(path: Path):
    folder, room, *_ = *path.relative_to(ROOT).parts, ""
    in_room = folder == "common" and room != "__init__.py"
    assert violations(path.read_text(encoding="utf-8"), folder, room if in_room else None) == []


def test_every_room_has_its_place():
    assert {path.parent.name for path in (ROOT / "common").glob("*/__init__.py")} == set(ROOMS)
    assert [path.name for path in (ROOT / "common").glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("top", ["common", "image", "video", "tools", "benchmarks"])
def test_no_folder_is_a_drawer(top: str):
    folders = {path.parent for path in (ROOT / top).rglob("*.py")}
    sizes = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: number for folder, number in sizes.items() if number > MAX_MODULES} == {}


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("common", "from revit.video.models import timesformer"),
        ("image", "import revit.video.data.decode"),
        ("video", "from revit import image"),
        ("tools", "import common.models"),
        ("video", "from . import data"),
    ],
)
def test_planted_violations_are_caught(folder: str, source: str):
    assert violations(source, folder)


@pytest.mark.parametrize(
    "source",
    [
        "from revit.common.training.trainer import Trainer",
        "from revit.common import training",
        "def later():\n    from revit.common.report import runs",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import revit.common.speed.served",
    ],
)
def test_planted_violations_of_the_rooms_are_caught(source: str):
    assert violations(source, "common", "models")


@pytest.mark.parametrize("folder", FOLDERS)
def test_import_without_the_root_is_refused(folder: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(ImportError, match=f"revit.{folder}"):
        __import__(folder)
