"""Tables on standard output, and the text of their cells."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(title: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print `rows`; `columns` maps keys to headings. Numbers stand right, None is a dash.

    Floats keep the digits that carry meaning: two behind the point from 10 on, three significant ones below.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    for key, heading in columns.items():
        values = [row.get(key) for row in rows]
        numeric = any(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        # A narrow terminal folds long names; it must not squeeze any column to nothing.
        cells = [shown(value) for value in values]
        # Numbers and what stands over them are in one line each: all of their width is needed, or others pay for it.
        words = [heading, *cells] if numeric else [*heading.split(), *cells]
        width = max(map(len, words)) if numeric else min(12, max(map(len, words)))
        table.add_column(
            heading, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold", min_width=width
        )
    for row in rows:
        table.add_row(*(Text(shown(row.get(key))) for key in columns))
    console = Console(highlight=False)
    # In a pipe there is no width to fit into, and cutting numbers to 80 columns would lose them.
    width = console.width if console.is_terminal or "COLUMNS" in os.environ else 200
    needed = 1 + sum((column.min_width or 0) + 4 for column in table.columns)  # with borders, and some room
    # Lines that the terminal wraps are better than columns squeezed to nothing.
    Console(highlight=False, width=max(width, needed)).print(table)


def shown(value: Any) -> str:
    """Return the text of a table cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 10 or value == 0 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def marked(times: Mapping[str, Any] | None, key: str) -> str | None:
    """Return an entry of a row's times as text, with ~ where it is derived; None where there is none."""
    if not times or key not in times:
        return None
    return f"{'~' if times.get('derived') else ''}{shown(float(times[key]))}"


def interval_text(row: Mapping[str, Any]) -> str:
    """Return the limits of a row in percent, as text."""
    return f"{row['low']:.1f} to {row['high']:.1f}"


def percent_text(share: float | None) -> str | None:
    """Return a fraction in percent, as text."""
    return None if share is None else f"{100 * share:.1f} %"
