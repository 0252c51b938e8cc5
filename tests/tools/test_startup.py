"""How tools begin: help and mistakes in arguments answer before anything slow is loaded, and a foreign Python is told which one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "tools").glob("*.py")
    if path.stem not in ("modalities", "settings", "environment")
)
SLOW = ("torch", "torchvision", "timm", "numpy", "transformers", "pytorchvideo", "deepspeed", "matplotlib", "av")
RUN = """
import runpy, sys
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    slow = [name for name in {slow} if name in sys.modules]
    sys.exit(f"loaded {{slow}}" if slow else end.code)
"""


def tool(name: str) -> str:
    return str(Path(__file__).parents[2] / "tools" / f"{name}.py")


def run(*command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **settings})


@pytest.mark.parametrize("name", TOOLS)
def test_help_and_mistakes_answer_before_anything_slow_is_loaded(name):
    for arguments, status in ((["--help"], 0), (["--no-such-thing"], 2), ([], 2)):
        done = run(sys.executable, "-c", RUN.format(slow=SLOW), tool(name), *arguments)
        assert done.returncode == status, done.stderr
        assert "loaded [" not in done.stderr
        assert "Traceback" not in done.stderr
    assert "usage:" in done.stderr


@pytest.mark.parametrize("name", TOOLS)
def test_a_python_without_this_project_names_one_that_has_it(name, tmp_path):
    done = run(sys.executable, "-S", tool(name), "a b", PYTHONPATH="")
    assert done.returncode == 2
    assert done.stdout == ""
    reason, command = done.stderr.splitlines()
    assert reason.startswith(f"error: {sys.executable} does not have this project installed")
    assert command.endswith(f".venv/bin/python {tool(name)} 'a b'")
