"""Tables on standard output."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(title: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints `rows`; `columns` maps keys to headings. Numbers stand right, None is a dash.

    Floats keep the digits that carry meaning: two behind the point from 10 on, three significant ones below.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    for key, heading in columns.items():
        values = [row.get(key) for row in rows]
        numeric = any(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        # A narrow terminal folds long names; it must not squeeze any column to nothing.
        cells = [shown(value) for value in values]
        # Numbers and what stands over them are in one line each: all of their width is needed, or others pay for it.
        width = (
            max(map(len, [heading, *cells]))
            if numeric
            else min(12, max(map(len, [*heading.split(), *cells])))
        )
        table.add_column(
            heading,
            justify="right" if numeric else "left",
            no_wrap=numeric,
            overflow="fold",
            min_width=width,
        )
    for row in rows:
        table.add_row(*(Text(shown(row.get(key))) for key in columns))
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # In a pipe there is no width to fit into, and cutting numbers to 80 columns would lose them.
        console = Console(highlight=False, width=200)
    needed = 1 + sum((column.min_width or 0) + 4 for column in table.columns)  # with borders, and some room
    if needed > console.width:  # lines that the terminal wraps are better than columns squeezed to nothing
        console = Console(highlight=False, width=needed)
    console.print(table)


def shown(value: Any) -> str:
    """A table cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 10 or value == 0 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
