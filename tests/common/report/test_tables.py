"""Tables on narrow terminals: no column is squeezed to nothing, and numbers stay whole."""

from __future__ import annotations

from revit.common.report.tables import print_table


def test_wide_numbers_do_not_squeeze_the_names_beside_them(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    headings = {"name": "name", **{str(number): f"a long heading {number}" for number in range(5)}}
    row = {"name": "gmacs:0.00114", **{str(number): 1234567.25 + number for number in range(5)}}
    print_table("Some", headings, [row])
    said = capsys.readouterr().out
    assert "gmacs:0.00114" in said
    for number in range(5):
        assert headings[str(number)] in said
        assert f"{1234567.25 + number:,.2f}" in said


def test_a_narrow_terminal_folds_long_names_alone(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    print_table("", {"a": "a", "b": "b"}, [{"a": "one two three four five six seven", "b": 123456.0}])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    assert any("123,456.00" in line for line in lines)


def test_without_rows(capsys):
    print_table("None", {"a": "a heading"}, [])
    assert "a heading" in capsys.readouterr().out
