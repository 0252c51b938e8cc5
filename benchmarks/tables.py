"""README's tables that come from commands: made again between their markers.

    python benchmarks/tables.py [NAME ...] [--readme README.md] [--runs runs]

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. Costs are counted here. All else is read from what was
measured before, with the machine that it was measured on:

    speed-KIND          RUNS/speed/*.json, each by tools/throughput.py --peers --json
    training-lengths    RUNS/training_lengths.json, by tools/throughput.py --training --json
    dynamicvit-speed    RUNS/dynamicvit_speed.json, by benchmarks/methods.py --json
    budgets-KIND        RUNS/budgets/KIND.json, by benchmarks/budgets.py --json
    flexivit-accuracy   RUNS/KIND_flexivit, by tools/train_net.py, and other_sizes.json in it by tools/test_net.py
    asvit-searches      RUNS/image_asvit_five, by tools/search_asvit.py
    demo                RUNS/demo, by make demo
    seeds-KIND          RUNS/seedN and RUNS/image_seedN, by tools/train_net.py with run.seed=N data.demo.seed=N
    methods-KIND        RUNS/methods/KIND, by benchmarks/compare_methods.py
    ablations           RUNS/ablations.json, by benchmarks/ablations.py --json
    targets             RUNS/targets.json, by benchmarks/targets.py
    blocks              RUNS/blocks.json, by benchmarks/blocks.py --json

A table whose measurements are not there stays as it is, and a line says what to run. NAME makes only those.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from made_tables import budgets, costs, flexivit, profile, runs, searches, speed, targets, training

from revit.common.system.command_line import parse, parser, tool
from revit.common.system.errors import UserError

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
Maker = Callable[[], "str | None"]


def makers_of(folder: Path) -> dict[str, Maker]:
    """Table -> what makes it, from the measurements under `folder`; it answers None where there are none."""
    makers: dict[str, Maker] = {
        "demo": partial(runs.demo, folder / "demo"),
        "targets": partial(targets.targets, folder / "targets.json"),
        "blocks": partial(profile.blocks, folder / "blocks.json"),
        "training-lengths": partial(training.training, folder / "training_lengths.json"),
        "flexivit-accuracy": partial(flexivit.flexivit, folder),
        "asvit-searches": partial(searches.searches, folder / "image_asvit_five"),
        "ablations": partial(runs.ablation, folder / "ablations.json"),
        "dynamicvit-costs": costs.dynamicvit,
        "dynamicvit-speed": partial(speed.dynamicvit_speed, folder / "dynamicvit_speed.json"),
        "asvit-costs": costs.asvit,
    }
    for kind, pattern in (("image", "image_seedN"), ("video", "seedN")):
        makers[f"flops-{kind}"] = partial(costs.costs, kind)
        makers[f"speed-{kind}"] = partial(speed.speed, kind, folder / "speed")
        makers[f"budgets-{kind}"] = partial(budgets.budgets, kind, folder / "budgets" / f"{kind}.json")
        makers[f"methods-{kind}"] = partial(runs.methods, kind, folder / "methods" / kind)
        makers[f"seeds-{kind}"] = partial(runs.seeds, kind, folder, pattern)
    return makers


def refreshed(text: str, makers: Mapping[str, Maker], only: Sequence[str] = ()) -> str:
    """`text` with every marked table made again (with `only`, those); what a maker answers None for stays.

    Raises UserError for a marker that no maker knows, for one without its end, and for a name in `only` without a marker.
    """
    blocks = BLOCK.findall(text)
    if text.count("<!-- table: ") != len(blocks):
        raise UserError("a table's marker has no <!-- end --> behind it, or a broken name")
    marked = [name for _, name, _, _ in blocks]
    if unmarked := [name for name in only if name not in marked]:
        raise UserError(f"{', '.join(unmarked)}: no such table here; there are {', '.join(marked)}")

    def replaced(found: re.Match[str]) -> str:
        start, name, old, end = found.groups()
        if "<!-- table: " in old:
            raise UserError(f"{name}: no <!-- end --> before the next table")
        if name not in makers:
            raise UserError(f"{name}: no such table; there are {', '.join(makers)}")
        made = makers[name]() if name in only or not only else None
        return start + (old if made is None else made) + end

    return BLOCK.sub(replaced, text)


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__ or "", "python benchmarks/tables.py\npython benchmarks/tables.py speed-image")
    arguments.add_argument("names", nargs="*", metavar="NAME", help="tables; default: all that have markers")
    arguments.add_argument("--readme", type=Path, default=ROOT / "README.md")
    arguments.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder of measurements and runs")
    values = parse(arguments, argv)
    makers = {name: cache(make) for name, make in makers_of(values.runs).items()}
    refreshed(values.readme.read_text(encoding="utf-8"), makers, values.names)
    # Counting takes minutes, in which somebody may have edited the file: it is read again for what is written.
    old = values.readme.read_text(encoding="utf-8")
    new = refreshed(old, makers, values.names)
    if new != old:
        values.readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
