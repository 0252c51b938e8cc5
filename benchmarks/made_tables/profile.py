"""The table of where the time of a block goes, from what benchmarks/blocks.py wrote."""

from __future__ import annotations

from pathlib import Path

from made_tables.markdown import read_json, stays, table

COLUMNS = {
    "part": "part of a divided block",
    "1 plain": "batch 1, plain",
    "1 packed": "batch 1, packed",
    "4 plain": "batch 4, plain",
    "4 packed": "batch 4, packed",
}
BLOCK, DTYPE = "divided", "bfloat16"


def blocks(path: Path) -> str | None:
    """Milliseconds, share of the block, and for products the share of their rate, in bfloat16; the block itself last."""
    if not path.is_file():
        stays("blocks", f"python benchmarks/blocks.py --json {path.parent.name}/{path.name}")
        return None
    chosen = [row for row in read_json(path) if (row["block"], row["dtype"]) == (BLOCK, DTYPE)]
    parts = sorted({row["part"] for row in chosen}, key=lambda part: (part == "block", part))
    cells = {(row["part"], f"{row['batch']} {row['way']}"): row for row in chosen}
    rows = []
    for part in parts:
        found: dict[str, str | None] = {"part": part}
        for column in list(COLUMNS)[1:]:
            row = cells.get((part, column))
            if row is not None:
                rate = "" if row["of_product_rate"] is None else f", {row['of_product_rate']:.0%} of the rate"
                found[column] = f"{row['ms']:.1f} ms, {row['of_block']:.1%}{rate}"
        rows.append(found)
    machine = chosen[0]["machine"] if chosen else "?"
    return table(COLUMNS, rows, f"By `python benchmarks/blocks.py`, bfloat16, on {machine}.")
