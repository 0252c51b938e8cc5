"""README's tables: markers stay, strangers are refused, a second time changes nothing."""

from __future__ import annotations

import pytest
from tables import BLOCK, ROOT, main, makers_of, refreshed

from revit.common.system.errors import UserError

TEXT = "before\n<!-- table: one -->\nold\n<!-- end -->\nbetween\n<!-- table: two -->\nkept\n<!-- end -->\nafter\n"


def test_markers_and_the_rest_stay():
    makers = {"one": lambda: r"| \1 new |" + "\n", "two": lambda: None}
    once = refreshed(TEXT, makers)
    assert once == TEXT.replace("old", r"| \1 new |")
    assert refreshed(once, makers) == once
    assert refreshed(TEXT, makers, ["two"]) == TEXT


def test_unknown_and_open_markers_are_refused():
    with pytest.raises(UserError, match="two: no such table; there are one"):
        refreshed(TEXT, {"one": lambda: "new\n"})
    with pytest.raises(UserError, match="three: no such table here; there are one, two"):
        refreshed(TEXT, {}, ["three"])
    for broken in (TEXT.replace("<!-- end -->", "", 1), TEXT.replace("<!-- end -->", "")):
        with pytest.raises(UserError, match="no <!-- end -->"):
            refreshed(broken, {"one": lambda: "new\n", "two": lambda: None})


def test_every_marker_of_the_readme_has_a_maker():
    names = [name for _, name, _, _ in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))]
    assert names
    assert set(names) <= set(makers_of(ROOT / "runs"))
    assert len(set(names)) == len(names)


def test_without_measurements_all_that_is_measured_stays(tmp_path, capsys):
    readme = tmp_path / "README.md"
    names = [name for name in makers_of(tmp_path) if not name.startswith("flops-") and "costs" not in name]
    text = "".join(f"<!-- table: {name} -->\nas it was\n<!-- end -->\n" for name in names)
    readme.write_text(text)
    assert main(["--readme", str(readme), "--runs", str(tmp_path / "none")]) == 0
    assert readme.read_text() == text
    said = capsys.readouterr().err
    assert all(f"{name} stays; first: " in said for name in names)


def test_what_is_edited_meanwhile_stays(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text(TEXT)
    calls = []

    def slow():
        calls.append(True)
        readme.write_text(TEXT.replace("after", "edited"))
        return "new\n"

    monkeypatch.setattr("tables.makers_of", lambda folder: {"one": slow, "two": lambda: None})
    assert main(["--readme", str(readme)]) == 0
    assert readme.read_text() == TEXT.replace("after", "edited").replace("old", "new")
    assert calls == [True]
