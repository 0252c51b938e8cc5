"""Text about configurations of every kind: resolved, their keys, their schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from revit.common.config.keys import Key, json_schema, list_keys
from revit.common.config.load import dump, load_by_kind
from revit.common.config.options import Options
from revit.common.methods.run_options import RecipeOptions
from revit.common.system.errors import UserError
from revit.image.options import ImageRun
from revit.image.search.run_options import AsViTSearchRun
from revit.video.options import VideoRun

RUNS: dict[str, type[RecipeOptions]] = {"image": ImageRun, "video": VideoRun}
KINDS: dict[str, type[Options]] = {**RUNS, "asvit_search": AsViTSearchRun}


def as_text(path: Path, overrides: Sequence[str], keys: Sequence[str]) -> str:
    """Return the YAML of a configuration with its base, overrides and defaults, or of these keys."""
    return dump(load_by_kind(KINDS, path, overrides), keys)


def run_keys() -> list[Key]:
    """Return every key of picture and clip runs."""
    return list_keys(RUNS)


def key_text(prefix: str) -> str:
    """Return the keys of runs that begin with `prefix`, with type, default and meaning. UserError if there are none."""
    keys = run_keys()
    chosen = [key for key in keys if key.path.startswith(prefix)]
    if not chosen:
        known = [key.path for key in keys]
        last = prefix.rpartition(".")[2]
        near = get_close_matches(
            prefix, [key for key in known if key.endswith(f".{last}")] or known, n=1, cutoff=0
        )
        raise UserError(f"--keys {prefix}: no key begins so; did you mean {near[0]}?")
    return "\n".join(_lines(key) for key in chosen)


def schema_text(kind: str) -> str:
    """Return the JSON schema of a kind of configuration. UserError for another kind."""
    if kind not in KINDS:
        raise UserError(f"--schema {kind}: no such kind; choose from {', '.join(KINDS)}")
    return json.dumps(json_schema(kind, KINDS[kind]), indent=1)


def _lines(key: Key) -> str:
    facts = [key.type, *([f"default {key.default}"] if key.default else [])]
    if not set(key.kinds) >= set(RUNS):
        facts.append(f"only {' and '.join(key.kinds)}")
    return f"{key.path}  ({'; '.join(facts)})" + (f"\n    {key.meaning}" if key.meaning else "")
