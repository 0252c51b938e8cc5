"""Says which command to use where a tool was started by a Python that does not have this project. Imported first by every tool."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path

if importlib.util.find_spec("revit") is None:
    root = Path(__file__).resolve().parent.parent
    own = root / ".venv" / "bin" / "python"
    command = shlex.join([str(own), *sys.argv])
    first = "" if own.exists() else f"make -C {shlex.quote(str(root))} install && "
    print(f"error: {sys.executable} does not have this project installed; use\n  {first}{command}", file=sys.stderr)
    sys.exit(2)
