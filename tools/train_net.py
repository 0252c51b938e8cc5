"""Train: the whole recipe of a configuration, stage after stage; a finished stage is not done again."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kinds import load_run

from revit.common.cli import add_config, parse, parser, tool
from revit.common.engine.recipe import Recipe


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(
        __doc__ or "",
        "python tools/train_net.py --cfg configs/video/demo.yaml\n"
        "python tools/train_net.py --cfg configs/image/demo.yaml\n"
        "python tools/train_net.py --cfg configs/video/demo.yaml run.dir=runs/seed1 run.seed=1 --stage evaluate",
    )
    add_config(arguments)
    arguments.add_argument(
        "--stage", help="do this stage only, again if it was done: data, model, lengths, assigner or evaluate"
    )
    values = parse(arguments, argv)
    options, kind = load_run(values.cfg, values.overrides)
    Recipe(options, kind.package).run(values.stage)
    return 0


if __name__ == "__main__":
    sys.exit(main())
