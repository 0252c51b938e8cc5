"""What the site's pages take from the code when it is built: every configuration key, and CONTRIBUTING.md."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from revit.common.config.keys import as_markdown, list_keys
from revit.image.options import ImageRun
from revit.image.search.options import AsViTSearchRun
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
    runs = list_keys({"video": VideoRun, "image": ImageRun})
    return f"""# Configuration

Every key of a run by its section, with type, default and meaning; in brackets the kind that alone has it. On the command line it is
`key.path=value`, with the value as in YAML. Keys of the search for an As-ViT are [at the end](#the-search-for-an-as-vit).

{as_markdown(runs)}
## The search for an As-ViT

Of `tools/search_asvit.py`.

{as_markdown(list_keys({"asvit_search": AsViTSearchRun})).replace("## ", "### ")}
"""
