"""A configuration is read as meant, or refused with every problem named once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from revit.common.config.load import dump, load, load_by_kind
from revit.common.config.options import Options
from revit.common.system.errors import UserError


class Optim(Options):
    lr: float = Field(0.1, gt=0)
    name: Literal["sgd", "adamw"] = "sgd"
    steps: tuple[int, ...] = (11, 14)


class Plain(Options):
    kind: Literal["plain"] = "plain"
    smoothing: float = 0.0


class Distilled(Options):
    kind: Literal["revit"] = "revit"
    temperature: float


class Run(Options):
    kind: Literal["video"] = "video"
    width: int
    heads: int = 2
    optim: Optim = Optim()
    task: Annotated[Plain | Distilled, Field(discriminator="kind")] = Plain()
    folder: Path | None = None
    sources: tuple[Optim, ...] = ()

    @model_validator(mode="after")
    def _heads_divide(self) -> Run:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        return self


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(Run, write(folder, text), overrides)
    return str(caught.value)


def test_file_and_overrides(tmp_path):
    path = write(tmp_path, "width: 8\noptim: {lr: 1e-3}\ntask: {kind: revit, temperature: 1}\n")
    run = load(
        Run, path, ["optim.steps=[1, 2]", "heads=4", "folder=runs/a", "optim.lr=5E2", "sources=[{}]", "sources.0.lr=2"]
    )
    assert run.optim == Optim(lr=500.0, steps=(1, 2))
    assert run.heads == 4
    assert run.folder == Path("runs/a")
    assert run.sources[0].lr == 2.0
    assert isinstance(run.task, Distilled)


def test_float_without_a_point(tmp_path):
    assert load(Run, write(tmp_path, "width: 8\noptim: {lr: 1e-3}\n")).optim.lr == 1e-3


def test_the_saved_copy_reads_back_equal(tmp_path):
    run = load(Run, write(tmp_path, "width: 8\nfolder: a/b\ntask: {kind: revit, temperature: 1e-5}\n"))
    assert load(Run, write(tmp_path, dump(run))) == run


def test_everything_wrong_is_reported_together(tmp_path):
    text = "width: broad\nheads: true\noptim:\n  lr: -1\n  nane: adamw\n  name: lion\ntemperature: 2\n"
    message = problems(tmp_path, text, "optim.momentum=0.9", "no_equals_sign")
    lines = message.splitlines()
    assert lines[0] == f"{len(lines) - 1} problems in the configuration"
    file = tmp_path / "run.yaml"
    assert f"  {file}:1: width: found broad; allowed: a valid integer, unable to parse string as an integer" in lines
    assert f"  {file}:4: optim.lr: found -1; allowed: greater than 0" in lines
    assert any(line.startswith(f"  {file}:5: optim.nane:") and "did you mean name?" in line for line in lines)
    assert any(line.startswith(f"  {file}:6: optim.name: found lion; allowed: 'sgd' or 'adamw'") for line in lines)
    assert any(line.startswith(f"  {file}:7: temperature:") and "task.temperature" in line for line in lines)
    assert any(line.startswith("  command line: optim.momentum: found 0.9; unknown key; allowed:") for line in lines)
    assert any(line.startswith("  command line: no_equals_sign: not of the form") for line in lines)


def test_a_contradiction_is_found_behind_an_unknown_key(tmp_path):
    message = problems(tmp_path, "width: 7\nhaeds: 2\n")
    assert "did you mean heads?" in message
    assert "width 7 is not divisible by heads 2" in message


def test_a_flag_is_not_a_number(tmp_path):
    assert "heads: found true; allowed: a number" in problems(tmp_path, "width: 8\nheads: yes\n")


def test_union_paths_are_as_written(tmp_path):
    message = problems(tmp_path, "width: 8\ntask:\n  kind: revit\n  temprature: 1\n")
    assert "run.yaml:4: task.temprature: found 1; unknown key; did you mean temperature?" in message
    assert "run.yaml:2: task.temperature: not given; it is required" in message
    assert "task: kind is 'flexi'; allowed: 'plain', 'revit'" in problems(tmp_path, "width: 8\ntask: {kind: flexi}\n")
    assert "run.yaml:2: task: the key 'kind' is not given" in problems(tmp_path, "width: 8\ntask: {}\n")


def test_list_elements_are_numbered(tmp_path):
    message = problems(tmp_path, "width: 8\nsources:\n  - {lr: 1}\n  - {lr: fast}\n")
    assert "run.yaml:4: sources.1.lr: found fast; allowed: a valid number" in message


def test_an_override_takes_the_blame(tmp_path):
    assert "command line: optim.lr: found 0;" in problems(tmp_path, "width: 8\noptim:\n  lr: 1\n", "optim={lr: 0}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ("# nothing but a comment\n", "the file is empty"),
        ("- a\n- b\n", "the top level must be a mapping of keys to values, not a list"),
        ("just words\n", "the top level must be a mapping of keys to values, not a single value"),
        ("width: 8\nwidth: 9\n", ":2: width: written twice"),
        ("width: 8\noptim:\n  lr: 1\n  lr: 2\n", ":4: optim.lr: written twice"),
        ("width: 8\n optim: [\n", ":2: not valid YAML"),
        ("width: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("optim: {}\n", "width: not given; it is required"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, text, expected):
    message = problems(tmp_path, text)
    assert expected in message
    assert str(tmp_path) in message


def test_a_missing_file_names_its_neighbour(tmp_path):
    write(tmp_path, "width: 8\n")
    with pytest.raises(UserError, match=r"runs\.yaml: no such file; did you mean .*run\.yaml"):
        load(Run, tmp_path / "runs.yaml")
    with pytest.raises(UserError, match="no folder"):
        load(Run, tmp_path / "none" / "run.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load(Run, tmp_path)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("width", "not of the form key.path=value"),
        ("=3", "not of the form"),
        ("width.deep=3", "width is the value 8, so nothing can be set inside it"),
        ("sources.2.lr=3", "a position in the list sources"),
        ("optim.name=[sgd", "not valid YAML"),
    ],
)
def test_overrides_that_cannot_be_applied(tmp_path, override, expected):
    message = problems(tmp_path, "width: 8\nsources: []\n", override)
    assert message.startswith("command line: ")
    assert expected in message


def write_with_base(folder: Path, base: str, own: str) -> Path:
    (folder / "bases").mkdir(exist_ok=True)
    (folder / "bases" / "base.yaml").write_text(base)
    return write(folder, f"base: bases/base.yaml\n{own}")


def test_a_file_is_laid_over_its_base(tmp_path):
    base = "width: 8\nheads: 4\noptim:\n  lr: 2\n  steps: [1, 2]\nfolder: a\ntask: {kind: revit, temperature: 3}\n"
    path = write_with_base(tmp_path, base, "optim:\n  steps: [5]\nfolder: null\ntask: {temperature: 1}\n")
    run = load(Run, path, ["heads=2"])
    assert run == Run(width=8, heads=2, optim=Optim(lr=2, steps=(5,)), task=Distilled(temperature=1), folder=None)
    assert "base" not in dump(run)
    top = tmp_path / "top.yaml"
    top.write_text("base: run.yaml\nheads: 8\n")
    assert load(Run, top).heads == 8
    assert load(Run, top).optim.steps == (5,)
    assert load_by_kind({"video": Run}, write_with_base(tmp_path, "kind: video\n", "width: 4\n")).width == 4


def test_what_is_wrong_is_found_where_it_was_written(tmp_path):
    base = "width: 8\nhaeds: 2\noptim:\n  lr: -1\n  name: lion\n  steps: [a]\n"
    path = write_with_base(tmp_path, base, "optim:\n  name: tiger\n  nane: x\n  steps:\n  - b\n")
    with pytest.raises(UserError) as caught:
        load(Run, path, ["optim.lr=-2"])
    lines = str(caught.value).splitlines()
    for place, key in (
        (f"{tmp_path}/bases/base.yaml:2", "haeds"),
        (f"{path}:3", "optim.name: found tiger"),
        (f"{path}:4", "optim.nane"),
        (f"{path}:6", "optim.steps.0: found b"),
        ("command line", "optim.lr: found -2"),
    ):
        assert any(line.startswith(f"  {place}: {key}") for line in lines), (place, key)
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("base: bases/bas.yaml\n", r"run\.yaml:1: base: .*bas\.yaml: no such file; did you mean .*base\.yaml\?"),
        ("width: 8\nbase: [a, b]\n", r"run\.yaml:2: base: found \['a', 'b'\]; allowed"),
        ("base: run.yaml\n", r"run\.yaml:1: base: .*circle \(.*run\.yaml -> .*run\.yaml\)"),
        ("base: bases/around.yaml\n", r"around\.yaml:1: base: .*circle"),
        ("base: bases/base.yaml\n", r"base\.yaml: the file is empty"),
    ],
)
def test_bases_that_cannot_be_read(tmp_path, own, expected):
    write_with_base(tmp_path, "", "")
    (tmp_path / "bases" / "around.yaml").write_text("base: ../run.yaml\n")
    with pytest.raises(UserError, match=expected):
        load(Run, write(tmp_path, own))


def test_a_base_is_not_named_on_the_command_line(tmp_path):
    assert "base: a base is named in a configuration file" in problems(tmp_path, "width: 8\n", "base=b.yaml")


def test_the_hint_is_the_nearest_key_of_that_name(tmp_path):
    class Training(Options):
        optim: Optim = Optim()

    class Assigner(Options):
        train: Training = Training()

    class Both(Options):
        assigner: Assigner = Assigner()
        train: Training = Training()

    def hint(text: str) -> str:
        with pytest.raises(UserError) as caught:
            load(Both, write(tmp_path, text))
        return str(caught.value).rpartition("did you mean ")[2]

    assert hint("train: {lr: 1}") == "train.optim.lr?"
    assert hint("assigner: {lr: 1}") == "assigner.train.optim.lr?"
    assert hint("lr: 1") == "train.optim.lr?"
    assert hint("train: {optm: {}}") == "optim?"


def test_kind_chooses_the_class(tmp_path):
    classes = {"video": Run}
    assert isinstance(load_by_kind(classes, write(tmp_path, "kind: video\nwidth: 8\n")), Run)
    with pytest.raises(UserError, match="kind: found 'sound'; allowed: video"):
        load_by_kind(classes, write(tmp_path, "kind: sound\n"))
    with pytest.raises(UserError, match="kind: not given; allowed: video"):
        load_by_kind(classes, write(tmp_path, "width: 8\n"))


def test_a_section_may_be_called_as_before(tmp_path, caplog):
    class Parallel(Options):
        zero_stage: int = 1

    class Training(Options):
        parallel: Parallel = Parallel()

    path = write(tmp_path, "engine:\n  zero_stage: 2\n")
    assert load(Training, path).parallel.zero_stage == load(Training, path).parallel.zero_stage == 2
    assert caplog.text.count(f"{path}:1: engine: this section is called parallel now") == 1
    assert load(Training, path, ["engine.zero_stage=3"]).parallel.zero_stage == 3
    with pytest.raises(UserError, match=r"run\.yaml:2: parallel\.zero_stage: found high"):
        load(Training, write(tmp_path, "engine:\n  zero_stage: high\n"))
    with pytest.raises(UserError, match="former name of parallel"):
        load(Training, write(tmp_path, "engine: {}\nparallel: {}\n"))
