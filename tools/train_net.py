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
        "python tools/train_net.py --cfg configs/image/demo.yaml --print-config train.optim.lr model\n"
        "python tools/train_net.py --keys train.optim\n"
        "python tools/train_net.py --cfg configs/image/demo.yaml --show-batch batch.png\n"
        "torchrun --nproc-per-node 2 tools/train_net.py --cfg configs/image/demo.yaml run.dir=runs/two_processes",
    )
    add_config(arguments, required=False)
    arguments.add_argument(
        "--stage",
        help="do this stage only, again if it was done: data, model, lengths, assigner, calibrate or evaluate",
    )
    arguments.add_argument(
        "--print-config",
        nargs="*",
        metavar="KEY",
        help="print the configuration with its base, overrides and defaults, or these keys of it, and do nothing else",
    )
    arguments.add_argument(
        "--keys",
        nargs="?",
        const="",
        metavar="PREFIX",
        help="list the keys that begin so (all without PREFIX) with type, default and meaning, and do nothing else",
    )
    arguments.add_argument(
        "--schema",
        metavar="KIND",
        help="print the JSON schema, for editors, of configurations of this kind: image, video or asvit_search",
    )
    arguments.add_argument(
        "--show-batch",
        metavar="FILE.png",
        help="draw the first training batch there, augmented and mixed, with labels and token grids, and do nothing else",
    )
    # The deepspeed launcher adds it; what it says is in the environment too.
    arguments.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    values = parse(arguments, argv)
    asked = [name for name in ("print_config", "keys", "schema") if getattr(values, name) is not None]
    if values.cfg is None and asked in ([], ["print_config"]):
        arguments.error("the following arguments are required: --cfg")

    # Imported after the arguments are read, so that --help and mistakes in them answer at once.
    if asked:
        from settings import show

        show(values)
        return 0
    from modalities import load_run

    from revit.common.system.device import pick_device
    from revit.common.system.distributed import DistributedContext, start_distributed, stop_distributed
    from revit.common.training.recipe import Recipe

    context = DistributedContext.from_environment()
    with context.one_voice():
        options, modality = load_run(values.cfg, values.overrides)
        if values.show_batch is not None:
            from revit.common.training.show_batch import show_batch

            print(show_batch(options, modality, values.show_batch))
            return 0
        context = start_distributed(pick_device(options.run.device), options.parallel.timeout_minutes, context)
        Recipe(options, modality, context).run(values.stage)
        stop_distributed()
    return 0


if __name__ == "__main__":
    status = main()
    if status == TRY_AGAIN:
        # A launcher that sees the first process end tells the others to: they are about to, and with this status.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(status)
