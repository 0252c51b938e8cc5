"""Train: the whole recipe of a configuration, stage after stage; a finished stage is not done again."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

import environment  # noqa: F401 (it says what to do where the project is not installed)

from revit.common.system.command_line import TRY_AGAIN, add_config, parse, parser, tool


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(
        __doc__ or "",
        "python tools/train_net.py --cfg configs/video/demo.yaml\n"
        "python tools/train_net.py --cfg configs/image/demo.yaml\n"
        "python tools/train_net.py --cfg configs/video/demo.yaml run.dir=runs/seed1 run.seed=1 --stage evaluate\n"
        "torchrun --nproc-per-node 2 tools/train_net.py --cfg configs/image/demo.yaml run.dir=runs/two_processes",
    )
    add_config(arguments)
    arguments.add_argument(
        "--stage",
        help="do this stage only, again if it was done: data, model, lengths, assigner, calibrate or"
        " evaluate",
    )
    # The deepspeed launcher adds it; what it says is in the environment too.
    arguments.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    values = parse(arguments, argv)

    # Imported after the arguments are read, so that --help and mistakes in them answer at once.
    from modalities import load_run

    from revit.common.system.device import pick_device
    from revit.common.system.distributed import World, start_world, stop_world
    from revit.common.training.recipe import Recipe

    world = World.from_environment()
    with world.one_voice():
        options, modality = load_run(values.cfg, values.overrides)
        world = start_world(pick_device(options.run.device), options.engine.timeout_minutes, world)
        Recipe(options, modality, world).run(values.stage)
        stop_world()
    return 0


if __name__ == "__main__":
    status = main()
    if status == TRY_AGAIN:
        # A launcher that sees the first process end tells the others to: they are about to, and with this status.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(status)
