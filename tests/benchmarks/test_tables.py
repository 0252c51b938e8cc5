"""README's tables: markers stay, strangers are refused, a second time changes nothing."""

from __future__ import annotations

import json

import pytest
from tables import main, refreshed, speed

from revit.common.errors import UserError

TEXT = "before\n<!-- table: one -->\nold\n<!-- end -->\nbetween\n<!-- table: two -->\nkept\n<!-- end -->\nafter\n"


def test_markers_and_the_rest_stay():
    makers = {"one": lambda: r"| \1 new |" + "\n", "two": lambda: None}
    once = refreshed(TEXT, makers)
    assert once == TEXT.replace("old", r"| \1 new |")
    assert refreshed(once, makers) == once


def test_unknown_and_open_markers_are_refused():
    with pytest.raises(UserError, match="two: no such table; there are one"):
        refreshed(TEXT, {"one": lambda: "new\n"})
    for broken in (TEXT.replace("<!-- end -->", "", 1), TEXT.replace("<!-- end -->", "")):
        with pytest.raises(UserError, match="no <!-- end -->"):
            refreshed(broken, {"one": lambda: "new\n", "two": lambda: None})


def test_speed_needs_its_measurement(tmp_path, capsys):
    assert speed(tmp_path / "none.json") is None
    assert "throughput.py" in capsys.readouterr().out
    path, readme = tmp_path / "speed.json", tmp_path / "README.md"
    path.write_text(json.dumps([{"name": "timm", "device": "cpu (1 threads)", "fraction_of_peak": None}]))
    readme.write_text("<!-- table: speed -->\n<!-- end -->\n")
    for _ in range(2):
        assert main(["--readme", str(readme), "--speed", str(path)]) == 0
        text = readme.read_text()
        assert text.count("| timm |") == 1
        assert "cpu (1 threads)" in text
        assert "torch" in text
