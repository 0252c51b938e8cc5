"""What `train_net.py` prints about configurations of every kind: resolved, their keys, their schema."""

from __future__ import annotations

import argparse
import json

from revit.common.config.keys import Key, json_schema, list_keys, nearest_key
from revit.common.config.load import dump, load_by_kind
from revit.common.config.options import Options
from revit.common.methods.run_options import RecipeOptions
from revit.common.system.errors import UserError
from revit.image.options import ImageRun
from revit.image.search.options import AsViTSearchRun
from revit.video.options import VideoRun

RUNS: dict[str, type[RecipeOptions]] = {"image": ImageRun, "video": VideoRun}
KINDS: dict[str, type[Options]] = {**RUNS, "asvit_search": AsViTSearchRun}


def show(values: argparse.Namespace) -> None:
    """Print what the arguments of `train_net.py` ask for about configurations. UserError for a kind or keys that are not known."""
    if values.schema is not None:
        if values.schema not in KINDS:
            raise UserError(f"--schema {values.schema}: no such kind; choose from {', '.join(KINDS)}")
        print(json.dumps(json_schema(values.schema, KINDS[values.schema]), indent=1))
    elif values.keys is not None:
        print(key_text(values.keys))
    else:
        # `--print-config KEY... key.path=value` cannot be told apart earlier.
        keys = [text for text in values.print_config if "=" not in text]
        overrides = [text for text in values.print_config if "=" in text]
        print(dump(load_by_kind(KINDS, values.cfg, [*values.overrides, *overrides]), keys), end="")


def run_keys() -> list[Key]:
    """Return every key of picture and clip runs."""
    return list_keys(RUNS)


def key_text(prefix: str) -> str:
    """Return the keys of runs that begin with `prefix`, with type, default and meaning. UserError if there are none."""
    keys = run_keys()
    chosen = [key for key in keys if key.path.startswith(prefix)]
    if not chosen:
        near = nearest_key(prefix, [key.path for key in keys])
        raise UserError(f"--keys {prefix}: no key begins so; did you mean {near}?")
    return "\n".join(_lines(key) for key in chosen)


def _lines(key: Key) -> str:
    facts = [key.type, *([f"default {key.default}"] if key.default else [])]
    if not set(key.kinds) >= set(RUNS):
        facts.append(f"only {' and '.join(key.kinds)}")
    return f"{key.path}  ({'; '.join(facts)})" + (f"\n    {key.meaning}" if key.meaning else "")
