"""Every configuration in the tree loads, says only what differs from its base, and fits the schema that is shipped."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import settings
import train_net
import yaml
from settings import KINDS

from revit.common.config.keys import as_markdown
from revit.common.config.load import dump, load, load_by_kind
from revit.common.system.errors import UserError

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "common" / "config" / "schemas"
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
NAMES = [path.relative_to(ROOT / "configs").as_posix() for path in CONFIGS]
DEMO = str(ROOT / "configs" / "image" / "demo.yaml")
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def fits(value: Any, schema: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Say whether a value suits a JSON schema, as far as ours use the language; another word in one fails."""

    def suits(other: Any, part: dict[str, Any]) -> bool:
        return fits(other, part, definitions)

    def is_a(name: str) -> bool:
        return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))

    if "type" in schema and not any(map(is_a, [schema["type"]] if isinstance(schema["type"], str) else schema["type"])):
        return False
    checks = {
        "$ref": lambda name: suits(value, definitions[name.removeprefix("#/$defs/")]),
        "anyOf": lambda parts: any(suits(value, part) for part in parts),
        "properties": lambda parts: all(suits(value[name], parts[name]) for name in parts if name in value),
        "additionalProperties": lambda part: all(
            part is True or (part and suits(value[name], part))
            for name in value
            if name not in schema.get("properties", {})
        ),
        "required": lambda names: set(names) <= set(value),
        "enum": lambda allowed: value in allowed,
        "const": lambda allowed: value == allowed,
        "minimum": lambda limit: value >= limit,
        "maximum": lambda limit: value <= limit,
        "exclusiveMinimum": lambda limit: value > limit,
        "exclusiveMaximum": lambda limit: value < limit,
        "items": lambda part: all(suits(one, part) for one in value),
        "prefixItems": lambda parts: all(map(suits, value, parts)),
        "minItems": lambda limit: len(value) >= limit,
        "maxItems": lambda limit: len(value) <= limit,
        "multipleOf": lambda step: value % step == 0,
        "pattern": lambda text: re.search(text, value) is not None,
        "minLength": lambda limit: len(value) >= limit,
    }
    silent = {"$schema", "$defs", "title", "description", "default", "format", "type"}
    return all(checks[word](given) for word, given in schema.items() if word not in silent)


def own_lines(path: Path) -> dict[str, Any]:
    """Return what a file itself says; numbers like 1e-3 are read as text by the plain reader, and made numbers here."""

    def numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: numbers(one) for key, one in value.items()}
        if isinstance(value, list):
            return [numbers(one) for one in value]
        try:
            return float(value) if isinstance(value, str) else value
        except ValueError:
            return value

    values = numbers(yaml.safe_load(path.read_text()))
    assert isinstance(values, dict)
    return values


def chain(path: Path) -> list[dict[str, Any]]:
    """Return what a file and its bases say, the lowest base first."""
    lines = own_lines(path)
    base = lines.pop("base", None)
    return [*(chain(path.parent / base) if base else []), lines]


def over(base: Any, own: Any) -> Any:
    if isinstance(base, dict) and isinstance(own, dict):
        return base | {key: over(base.get(key), value) for key, value in own.items()}
    return own


def differs(base: Any, own: Any) -> bool:
    """Say whether every value of `own` differs from what `base` has there."""
    if isinstance(base, dict) and isinstance(own, dict):
        return all(key not in base or differs(base[key], value) for key, value in own.items())
    return bool(base != own)


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_a_configuration_is_its_base_and_its_lines(path: Path, tmp_path: Path):
    merged: Any = {}
    for lines in chain(path):
        assert differs(merged, lines), "says what its base says"
        merged = over(merged, lines)
    copy = tmp_path / "copy.yaml"
    copy.write_text(yaml.safe_dump(merged))
    options = load_by_kind(KINDS, path)
    assert options == load_by_kind(KINDS, copy)
    copy.write_text(dump(options))
    assert options == load_by_kind(KINDS, copy)
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"--cfg configs/{path.relative_to(ROOT / 'configs').as_posix()}" in line for line in head)


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_schema_is_up_to_date(kind: str, capsys: pytest.CaptureFixture[str]):
    """After a change of options: python tools/train_net.py --schema KIND > common/config/schemas/KIND.json."""
    assert train_net.main(["--schema", kind]) == 0
    assert capsys.readouterr().out == (SCHEMAS / f"{kind}.json").read_text()


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_a_configuration_fits_its_schema_whole_and_as_written(path: Path):
    options = load_by_kind(KINDS, path)
    schema = json.loads((SCHEMAS / f"{options.kind}.json").read_text())
    for values in (own_lines(path), yaml.safe_load(dump(options))):
        assert fits(values, schema, schema["$defs"])
        assert not fits({**values, "optim": {}}, schema, schema["$defs"])
        assert not fits({**values, "run": {"dir": "a", "sed": 1}}, schema, schema["$defs"])


def test_a_schema_knows_the_methods_and_what_is_required():
    schema = json.loads((SCHEMAS / "image.json").read_text())
    whole = {"data": {}, "run": {"dir": "a"}}
    for methods, suits in (
        ({"toe": {"first_rate": 0.5}}, True),
        ({"toe": None, "dynamicvit": False}, True),
        ({"toe": {"first_rate": 1.5}}, False),
        ({"toe": {"keep_rate": 0.5}}, False),
        ({"tome": {}}, False),
    ):
        assert fits({**whole, "methods": methods}, schema, schema["$defs"]) is suits
    assert not fits({"run": {"dir": "a"}}, schema, schema["$defs"])
    assert fits({"base": "demo.yaml", "run": {"dir": "a"}}, schema, schema["$defs"])


def test_the_printed_configuration_is_the_one_that_is_read(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert train_net.main(["--cfg", DEMO, "run.seed=3", "--print-config"]) == 0
    copy = tmp_path / "copy.yaml"
    copy.write_text(capsys.readouterr().out)
    assert load_by_kind(KINDS, copy) == load_by_kind(KINDS, DEMO, ["run.seed=3"])
    assert train_net.main(["--cfg", DEMO, "--print-config", "train.optim.lr", "lengths", "train.optim.lr=2"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {
        "train": {"optim": {"lr": 2.0}},
        "lengths": {"split": "train", "none_correct": "longest"},
    }
    assert train_net.main(["--cfg", DEMO, "--print-config", "train.lr"]) == 2
    assert "train.optim.lr" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["copy.yaml"]


def test_keys_are_listed_with_type_default_and_meaning(capsys: pytest.CaptureFixture[str]):
    assert train_net.main(["--keys", "methods.toe.first"]) == 0
    first, meaning = capsys.readouterr().out.splitlines()
    assert first == "methods.toe.first_rate  (number > 0 and <= 1; default 0.5)"
    assert "first stage" in meaning
    assert train_net.main(["--keys", "data.frames.num_frames"]) == 0
    assert "only video" in capsys.readouterr().out
    assert train_net.main(["--keys"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 300
    assert train_net.main(["--keys", "optim.lr"]) == 2
    assert "did you mean train.optim.lr?" in capsys.readouterr().err
    assert train_net.main(["--schema", "sound"]) == 2


def test_a_configuration_is_needed_for_all_else():
    with pytest.raises(SystemExit) as stopped:
        train_net.main(["--stage", "model"])
    assert stopped.value.code == 2


def test_every_key_can_be_written():
    """A key with its default, in the place where it is listed, is understood."""
    keys = settings.run_keys()
    paths = [key.path for key in keys]
    assert {"train.ema.decay", "train.optim.groups.N.lr_scale", "methods.dynamicvit.keep_rate"} <= set(paths)
    assert [key.default for key in keys if key.path == "data.test_views.num_crops"] == ["1"]
    for key in keys:
        if key.type.startswith("section") or not key.default or ".N." in key.path:
            continue
        kind = "video" if key.kinds == ("video",) else "image"
        name = "asvit_seed" if "As-ViT" in key.kinds[0] else "demo"
        said = ""
        try:
            load(KINDS[kind], ROOT / "configs" / kind / f"{name}.yaml", [f"{key.path}={key.default}"])
        except UserError as error:  # with the rest of this configuration it may be a contradiction
            said = str(error)
        assert "unknown key" not in said


def test_markdown_has_a_row_for_every_key():
    keys = settings.run_keys()
    rows = [line for line in as_markdown(keys).splitlines() if line.startswith("| `")]
    assert len(rows) == sum(not key.type.startswith("section") for key in keys)
