"""Exit status, messages and argument order of the tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from revit.common.system import command_line as cli
from revit.common.system.errors import OwnError, SaidElsewhere, Stopped, UserError
from revit.common.system.files import write_json


@pytest.mark.parametrize(
    ("raised", "status", "printed"),
    [
        (UserError("no such folder: x"), 2, "error: no such folder: x\n"),
        (OwnError("rank 1: no such file"), 2, "error: rank 1: no such file\n"),
        (SaidElsewhere("full"), 2, ""),
        (Stopped("saved"), 75, "saved\n"),
        (Stopped(""), 75, ""),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (RuntimeError("defect"), 1, "Traceback"),
    ],
)
def test_exit_status(capsys, raised, status, printed):
    @cli.tool
    def main(argv=None):
        raise raised

    assert main([]) == status
    message = capsys.readouterr().err
    assert message.startswith(printed)
    assert printed or not message
    assert ("Traceback" in message) == (status == 1)


def test_done_is_zero():
    assert cli.tool(lambda argv: None)([]) == 0


def test_one_configuration_with_overrides_anywhere():
    arguments = cli.parser("Does a thing.", "python tools/thing.py --cfg a.yaml")
    cli.add_config(arguments)
    cli.add_json(arguments)
    values = cli.parse(arguments, ["a.b=1", "--cfg", "a.yaml", "c=[1, 2]", "--json", "out.json", "d=x"])
    assert values.cfg == Path("a.yaml")
    assert values.overrides == ["a.b=1", "c=[1, 2]", "d=x"]
    assert values.json == Path("out.json")
    assert "example:\n  python tools/thing.py --cfg a.yaml" in arguments.format_help()


def test_several_configurations_then_overrides():
    arguments = cli.parser("Does a thing.", "python tools/thing.py --cfg a.yaml")
    cli.add_config(arguments, several=True)
    values = cli.parse(arguments, ["--cfg", "a.yaml", "b.yaml", "c=1", "--cfg", "d.yaml"])
    assert values.cfg == [Path("a.yaml"), Path("b.yaml"), Path("d.yaml")]
    assert values.overrides == ["c=1"]


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "out.json"
    write_json(path, [{"gmacs": 196.05}])
    before = path.read_text()
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, [float("nan")])
    assert path.read_text() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["out.json"]
    with pytest.raises(UserError, match="cannot be written"):
        write_json(path / "inside_a_file.json", [])


@pytest.mark.parametrize("place", ["file/out.json", "folder", "/proc/version/out.json", "/proc/nothing/out.json"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    arguments = cli.parser("Works for hours.", "python tool.py")
    cli.add_json(arguments)
    with pytest.raises(UserError, match=r"cannot be written"):
        cli.parse(arguments, ["--json", str(tmp_path / place)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_two_outputs_are_two_files_and_a_dash_is_none(tmp_path):
    arguments = cli.parser("Works for hours.", "python tool.py")
    cli.add_json(arguments)
    arguments.add_argument("--html", type=Path)
    same = tmp_path / "sub" / ".." / "out"
    (tmp_path / "sub").mkdir()
    with pytest.raises(UserError, match=r"--json and --html both name .*; give each its own file"):
        cli.parse(arguments, ["--json", str(tmp_path / "out"), "--html", str(same)])
    with pytest.raises(UserError, match="/dev/stdout"):
        cli.parse(arguments, ["--json", "-"])


def test_asking_leaves_an_earlier_output_as_it_is(tmp_path):
    arguments = cli.parser("Works for hours.", "python tool.py")
    cli.add_json(arguments)
    (tmp_path / "old.json").write_text("[1]")
    assert cli.parse(arguments, ["--json", str(tmp_path / "old.json")]).json == tmp_path / "old.json"
    assert (tmp_path / "old.json").read_text() == "[1]"
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


def test_behind_two_dashes_everything_is_a_path_in_its_place():
    arguments = cli.parser("", "x")
    arguments.add_argument("paths", nargs="+")
    arguments.add_argument("--peers", nargs="?", const="all")
    for argv, paths, peers in (
        (["a", "--", "-b", "--help", "--peers", "--"], ["a", "-b", "--help", "--peers", "--"], None),
        (["a", "--peers", "x", "c", "--", "-b"], ["a", "c", "-b"], "x"),
        (["--peers", "--", "-b"], ["-b"], "all"),
        (["a", "--"], ["a"], None),
    ):
        values = cli.parse(arguments, argv)
        assert (values.paths, values.peers) == (paths, peers)


def test_a_path_is_printed_on_one_line():
    assert cli.on_one_line("clips/two words é.mp4") == "clips/two words é.mp4"
    assert cli.on_one_line("a\nb\t\udcff") == "a\\nb\\t\\udcff"
