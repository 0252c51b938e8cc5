"""Convert a data set of clips once, to small files that are quick to read: H.264 with a key frame every few frames.

The shorter side is shrunk to 256 pixels (never enlarged), rotation tags are applied, sound is dropped. Every frame keeps its
number and its time, so the same frames are read as from the sources, and every new file is read again and compared before it
is kept. Broken clips are left out and listed with the reason. Killed at any moment, the same command goes on.

DATA is a list or a folder with one subfolder per class. A folder stays one; of a list train.csv there is a new train.csv in
OUT, with the same labels.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import environment  # noqa: F401 (it says what to do where the project is not installed)

from revit.common.system.command_line import add_json, parse, parser, tool
from revit.common.system.errors import UserError
from revit.common.system.files import write_json

SHOWN_BROKEN = 10


@tool
def main(argv: Sequence[str] | None = None) -> int:
    example = """
        python tools/convert_clips.py --data clips/train --out small/train
        python tools/convert_clips.py --data lists/train.csv --out small --workers 8 --json small.json
    """
    arguments = parser(__doc__ or "", example)
    arguments.add_argument("--data", required=True, metavar="DATA", help="list file, or folder of classes")
    arguments.add_argument("--out", required=True, metavar="FOLDER", help="new folder, or one to go on in")
    arguments.add_argument("--short-side", type=int, default=256, metavar="PIXELS", help="(256)")
    arguments.add_argument("--gop", type=int, default=16, metavar="FRAMES", help="between key frames (16)")
    arguments.add_argument("--crf", type=int, default=18, help="quality: 1 large, 40 poor (18)")
    arguments.add_argument("--workers", type=int, metavar="N", help="processes (as many as there are cores)")
    arguments.add_argument("--separator", default=" ", help="of the list, as data.source.separator")
    arguments.add_argument("--prefix", default="", help="of the list's paths, as data.source.prefix")
    arguments.add_argument("--label-names", metavar="FILE", help="as data.source.label_names")
    arguments.add_argument("--several-labels", action="store_true", help="as data.source.several_labels")
    add_json(arguments)
    values = parse(arguments, argv)
    if values.workers is not None and values.workers < 1:
        raise UserError(f"--workers {values.workers}: at least 1")

    # Imported after the arguments are read, so that --help and mistakes in them answer at once, and not by the processes
    # that convert, which start from this file.
    from revit.common.report.tables import print_table
    from revit.common.system.device import num_cores
    from revit.video.data.convert.clip import ConvertSettings
    from revit.video.data.convert.data_set import convert_data_set, plan_conversion

    settings = ConvertSettings(values.short_side, values.gop, values.crf)
    plan = plan_conversion(
        values.data,
        values.out,
        separator=values.separator,
        prefix=values.prefix,
        label_names=values.label_names,
        several_labels=values.several_labels,
    )
    try:
        result = convert_data_set(plan, settings, values.workers or num_cores())
    except KeyboardInterrupt:
        print(f"what is finished stays in {plan.out}; the same command goes on", file=sys.stderr)
        raise
    if values.json:
        write_json(values.json, result)
    counts, reading, broken = result["files"], result["reading"], result["broken"]
    num_files = counts["converted"] + counts["already_there"]
    rows = [{"": when, "files": num_files, "megabytes": result["bytes"][when] / 1e6} for when in ("before", "after")]
    if reading is not None:
        rows[0] |= {"clips/s": reading["before_per_second"], "times as fast": 1.0}
        rows[1] |= {"clips/s": reading["after_per_second"], "times as fast": reading["speed_up"]}
    title = f"{counts['converted']} clips converted, {counts['already_there']} were there, {counts['broken']} broken"
    print_table(title, {key: key for key in ("", "files", "megabytes", "clips/s", "times as fast")}, rows)
    if reading is not None:
        print(f"clips/s: 8 frames of 224 pixels, one in 32, by one processor ({reading['files']} clips, read in turn)")
    for one in broken[:SHOWN_BROKEN]:
        print(f"left out: {one['path']}: {one['reason']}", file=sys.stderr)
    if len(broken) > SHOWN_BROKEN:
        print(f"... and {len(broken) - SHOWN_BROKEN} more: {plan.beside('broken.txt')}", file=sys.stderr)
    print(f"set {' '.join(result['set'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
