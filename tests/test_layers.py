"""Who may import whom: common <- image, common <- video, tools import all; image and video never each other."""

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


def violations(source: str, folder: str) -> list[str]:
    """What a file of `folder` imports against the rules."""
    found = []
    for name in sorted(imported_modules(source)):
        parts = name.split(".")
        if name.startswith("."):
            found.append(f"{name}: relative import; write revit.{folder}...")
        elif parts[0] in FOLDERS:
            found.append(f"{name}: import without the root makes a second copy; write revit.{name}")
        elif parts[0] == "revit" and len(parts) > 1 and parts[1] not in MAY_IMPORT[folder]:
            found.append(f"{name}: {folder} may not import {parts[1]}")
    return found


FILES = sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_layers(path: Path):
    folder = path.relative_to(ROOT).parts[0]
    assert violations(path.read_text(encoding="utf-8"), folder) == []


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("common", "from revit.video.models import timesformer"),
        ("image", "import revit.video.data.decode"),
        ("video", "from revit import image"),
        ("tools", "import common.vit"),
        ("video", "from . import data"),
    ],
)
def test_planted_violations_are_caught(folder: str, source: str):
    assert violations(source, folder)


@pytest.mark.parametrize("folder", FOLDERS)
def test_import_without_the_root_is_refused(folder: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(ImportError, match=f"revit.{folder}"):
        __import__(folder)
