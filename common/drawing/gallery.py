"""A folder of drawings: one file for each input, under names that do not meet."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path

from PIL import Image

from revit.common.system.errors import UserError, reason_of

ENDING = ".tokens.png"
LONGEST_NAME = 120
"""Number of bytes of an input's name that a drawing takes over; file systems allow 255 in all."""


class Gallery:
    """Writes drawings into one folder, each as NAME.tokens.png after the file it is of.

    Files of equal names from different folders get NAME-2, NAME-3 and so on, in the order they come in. A drawing of an
    earlier call is replaced; a link is replaced itself, never what it points to.
    """

    def __init__(self, folder: str | Path) -> None:
        """Make the folder. Raise UserError if nothing can be written there."""
        self.folder = Path(folder)
        self._taken: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise self._refused(error) from error

    def holds(self, file: str) -> bool:
        """Say whether a file is a drawing in the folder: a search for inputs that comes by leaves them out."""
        return file.endswith(ENDING) and os.path.realpath(os.path.dirname(file)) == os.path.realpath(self.folder)

    def save(self, source: str, drawing: Image.Image) -> str:
        """Write the drawing of the file `source`, whole or not at all, and return its path. UserError if it cannot be."""
        path = self.folder / self._name(source)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with open(temporary, "xb") as file:
                drawing.save(file, format="PNG")
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise self._refused(error) from error
        return str(path)

    def _name(self, source: str) -> str:
        stem = re.sub(r"[\x00-\x1f\x7f/\\:]", "_", Path(source).stem)
        stem = os.fsencode(stem)[:LONGEST_NAME].decode(errors="replace").replace("\ufffd", "_")
        name, number = stem, 1
        while name.casefold() in self._taken:  # some file systems do not tell A from a
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name.casefold())
        return name + ENDING

    def _refused(self, error: OSError) -> UserError:
        return UserError(f"{self.folder}: drawings cannot be written there ({reason_of(error)}); choose another folder")
