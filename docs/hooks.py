"""What the site's pages take from the code when it is built: every configuration key, and CONTRIBUTING.md."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic_core import to_jsonable_python

from revit.common.config.options import Options
from revit.common.methods.registry import known_methods
from revit.image.options import ImageRun
from revit.image.search.run_options import AsViTSearchRun
from revit.video.options import VideoRun

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("common", "image", "video")


def on_startup(**_: object) -> None:
    """Make build/python/revit, where the three folders lie as they are imported, for mkdocstrings to read."""
    package = ROOT / "build" / "python" / "revit"
    package.mkdir(parents=True, exist_ok=True)
    for folder in FOLDERS:
        if not (package / folder).exists():
            (package / folder).symlink_to(Path("..", "..", "..", folder))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name, text in (("configuration.md", configuration()), ("contributing.md", contributing)):
        files.append(File.generated(config, name, content=text))
    return files


def configuration() -> str:
    """Return the page of all keys."""
    parts = [
        "# Configuration\n\nEvery key of a run, with its type, default and meaning. On the command line it is "
        "`key.path=value`, with the value as in YAML. A default that is null is chosen as the meaning says.\n",
        f"## Clips: `kind: video`\n\n{_table(VideoRun)}",
        f"## Pictures: `kind: image`\n\n{_table(ImageRun)}",
    ]
    for name, method in sorted(known_methods().items()):
        parts.append(f"## `methods.{name}`\n\n{_table(method.options_class, f'methods.{name}.')}")
    parts.append(f"## The search for an As-ViT\n\nOf `tools/search_asvit.py`.\n\n{_table(AsViTSearchRun)}")
    return "\n".join(parts)


def _table(cls: type[Options], prefix: str = "") -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for cells in _rows(cls, prefix):
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _rows(cls: type[Options], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in cls.model_fields.items():
        inner = _sections(field.annotation)
        meaning = field.description or ""
        if not inner:
            default = "needed" if field.is_required() else f"`{_yaml(field.get_default())}`"
            yield f"`{prefix}{name}`", f"`{_type(field.annotation)}`", default, meaning
            continue
        yield f"**`{prefix}{name}`**", "section", "", meaning or (inner[0].__doc__ or "").split("\n\n")[0]
        seen: set[str] = set()
        for section in inner:
            for row in _rows(section, f"{prefix}{name}."):
                if row[0] not in seen:
                    seen.add(row[0])
                    yield row


def _sections(annotation: Any) -> list[type[Options]]:
    """Return the groups of settings that a value may be, those in lists and mappings left out."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, UnionType, typing.Annotated):
        parts = typing.get_args(annotation)
        parts = parts[:1] if typing.get_origin(annotation) is typing.Annotated else parts
        return [section for part in parts for section in _sections(part)]
    return []


def _yaml(value: Any) -> str:
    return (
        yaml.safe_dump(to_jsonable_python(value), default_flow_style=True, width=1000)
        .removesuffix("\n...\n")
        .strip()
        or "''"
    )


def _type(annotation: Any) -> str:
    """Return an annotation as a reader of YAML says it."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(parts[0])
    if origin is typing.Literal:
        return ", ".join(str(part) for part in parts)
    if origin in (typing.Union, UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in parts))
    if origin in (tuple, list):
        return f"list of {_type(parts[0])}" if parts else "list"
    if origin is dict or origin is typing.get_origin(dict[str, str]):
        return "mapping"
    if annotation is type(None):
        return "null"
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true, false", "PosixPath": "path"}
    name = getattr(annotation, "__name__", re.sub(r"\W", "", str(annotation)))
    return names.get(name, name.lower() if name == "Path" else name)
