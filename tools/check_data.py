"""Check data before a training: read every file to its end, and say what is wrong with files, lists and labels.

DATA is a list file, a folder with one subfolder per class, or a plain folder of files; key.path=value sets how lists are read
(data.source.first_label=1). --cfg takes the lists of a configuration, test before val before train, and its keys for DATA.
Where two lists have the same content, the first one keeps it.

What was found is kept beside each list (.NAME.check): stopped at any moment the same command goes on, and a later one reads
only files that are new or changed. Trainings and reports quote the newest summary of their lists.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import environment  # noqa: F401 (it says what to do where the project is not installed)

from revit.common.system.command_line import add_json, parse, parser, tool
from revit.common.system.errors import Stopped, UserError

if TYPE_CHECKING:
    from revit.common.data.check.doctor import Plan
    from revit.common.data.check.result import Checkup
    from revit.common.data.check.sources import Source
    from revit.common.data.formats.base import Split
    from revit.common.data.lists import SampleList

SHOWN = 5
"""Files of each kind of trouble that are printed; the others are in --json."""
FIRST_KEEPS: tuple[Split, ...] = ("test", "val", "train")


@tool
def main(argv: Sequence[str] | None = None) -> int:
    example = """
        python tools/check_data.py clips/train clips/test --out clean --json check.json
        python tools/check_data.py lists/test.csv lists/train.csv data.source.prefix=/data/clips --sample 1000
        python tools/check_data.py --cfg configs/video/demo.yaml --strict
    """
    arguments = parser(__doc__ or "", example)
    arguments.add_argument("data", nargs="*", metavar="DATA", help="list or folder; or key.path=value")
    arguments.add_argument("--cfg", metavar="FILE.yaml", help="configuration whose lists, or keys, are taken")
    arguments.add_argument("--kind", choices=("video", "image"), help="clips or pictures (by the files' names)")
    arguments.add_argument("--out", type=Path, metavar="LIST", help="clean list; of several lists a folder of them")
    add_json(arguments)
    arguments.add_argument("--strict", action="store_true", help="exit status 2 if there is a problem")
    arguments.add_argument("--sample", type=int, metavar="N", help="read N files of all, the same each time")
    arguments.add_argument("--workers", type=int, metavar="N", help="processes (as many as cores)")
    arguments.add_argument(
        "--limit", type=float, metavar="SECONDS", help="for a picture, or a minute of a clip; longer is slow (30)"
    )
    values = parse(arguments, argv)
    if not values.data and values.cfg is None:
        arguments.error("give DATA or --cfg FILE.yaml")
    for name, least in (("sample", 1), ("workers", 1)):
        if (value := getattr(values, name)) is not None and value < least:
            raise UserError(f"--{name} {value}: at least {least}")
    if values.limit is not None and values.limit <= 0:
        raise UserError(f"--limit {values.limit:g}: more than 0 seconds")

    # Imported after the arguments are read, so that --help and mistakes in them answer at once, and not by the processes
    # that read, which start from this file.
    from revit.common.data.check.doctor import check
    from revit.common.system.files import write_json
    from revit.common.system.processes import StopRequest

    stop = StopRequest()
    try:
        with stop.listening():
            plan = make_plan(values)
            checkup = check(plan)
    except Stopped:
        raise stop.stopped("what was read is kept") from None
    if values.json:
        write_json(values.json, checkup.to_json())
    said = write_clean_lists(checkup, values.out) if values.out else []
    show(checkup)
    for line in said:
        print(line)
    num_problems = sum(count for kind, count in checkup.kinds.items() if kind != "odd")
    return 2 if values.strict and num_problems else 0


def make_plan(values: Any) -> Plan:
    """Read the lists that the arguments name; return what is to be checked, and how."""
    from modalities import MODALITIES, SUBJECTS, load_run
    from pydantic import create_model

    from revit.common.config.load import load_overrides
    from revit.common.config.options import Options
    from revit.common.data.check.doctor import Plan
    from revit.common.data.check.result import Problem, check_can_be_listed
    from revit.common.data.check.sources import kind_of, read_source
    from revit.common.system.device import num_cores

    overrides = [text for text in values.data if "=" in text and not Path(text).exists()]
    named = [text for text in values.data if text not in overrides]
    if values.cfg is not None:
        options, modality = load_run(values.cfg, overrides)
        data = modality.data(options) if not named else options.data
    else:
        if not named:
            raise UserError(f"{' '.join(overrides)}: settings without a list; give DATA or --cfg FILE.yaml")
        kinds = {kind: subject.extensions for kind, subject in SUBJECTS.items()}
        modality = MODALITIES[values.kind or kind_of(named[0], kinds)]
        section: Any = modality.run_options.model_fields["data"].annotation
        alone: Any = create_model("Lists", __base__=Options, data=(section, section()))
        data = load_overrides(alone, overrides).data
    subject = SUBJECTS[modality.name]
    where: dict[str, tuple[str, Split]] = {text: (text, "train") for text in named} or {
        split: (place, split) for split in FIRST_KEEPS if (place := getattr(data.source, split)) is not None
    }
    if not where:
        raise UserError(f"{values.cfg}: has no lists; set data.source.train, val or test")

    def read(place: str, split: Split) -> SampleList:
        # Each for itself: a class that another list has not is a finding, no fault.
        own = dict.fromkeys((*FIRST_KEEPS, "split_off")) | {split: place}
        source = data.source.model_copy(update=own)
        return modality.read_split(data.model_copy(update={"source": source}), split)

    sources = {
        called: read_source(place, subject.extensions, partial(read, split=split), modality.plural)
        for called, (place, split) in where.items()
    }
    labelled = _all_labelled(sources)
    lists = {called: source.samples for called, source in sources.items()}
    if values.out:
        check_can_be_listed(lists)
    strays = [
        Problem(
            source.samples.source, "label", f"{len(source.strays)} files lie in no class, such as {source.strays[0]}"
        )
        for source in sources.values()
        if source.strays
    ]
    timeout = getattr(data.loading, "decode_timeout_seconds", 0) or 30.0
    return Plan(
        lists=lists,
        read_as="; ".join(dict.fromkeys(source.read_as for source in sources.values())),
        subject=subject,
        limit=values.limit if values.limit is not None else timeout,
        num_workers=values.workers or num_cores(),
        labelled=labelled,
        label_remarks=strays,
        sample=values.sample,
        **({"span": subject.span(data)} if values.cfg is not None else {}),
    )


def _all_labelled(sources: Mapping[str, Source]) -> bool:
    found = {source.labelled for source in sources.values()}
    if len(found) > 1:
        plain = next(source.samples.source for source in sources.values() if not source.labelled)
        raise UserError(f"{plain}: a plain folder without classes beside lists with labels; check it by itself")
    return found.pop()


def write_clean_lists(checkup: Checkup, out: Path) -> list[str]:
    """Write the lists without what is wrong; return what is to be said of them."""
    from revit.common.data.check.result import first_written, names_beside

    said = []
    several = len(checkup.files.lists) > 1
    for which, called in enumerate(checkup.files.called):
        path = out / f"{Path(called).stem or which}.txt" if several else out
        num_lines, unwritten = checkup.write_clean(which, path)
        split = Path(called).stem if Path(called).stem in FIRST_KEEPS else "train"
        samples, keys = checkup.files.lists[which], [f"data.source.{split}={path}"]
        if checkup.labelled:
            keys.append(f"data.source.first_label={first_written(samples)}")
        if checkup.labelled and samples.names is not None:
            keys.append(f"data.source.label_names={names_beside(path)}")
        if samples.several:
            keys.append("data.source.several_labels=true")
        said.append(f"clean list: {num_lines} files; set {' '.join(keys)}")
        said += [f"left out of it, as no line can hold its name: {name!r}" for name in unwritten[:SHOWN]]
    return said


def show(checkup: Checkup) -> None:
    """Print what was found."""
    from revit.common.system.command_line import on_one_line

    listed, num_files = len(checkup.files.of_sample), checkup.num_files
    part = "" if num_files == listed else f" of {listed}"
    print(f"{checkup.read_as}: {num_files} files{part} read, {checkup.num_good} good, {checkup.seconds:.1f} s")
    kinds = checkup.kinds
    left = dict.fromkeys(kinds, SHOWN)
    lines: dict[str, list[str]] = {kind: [] for kind in kinds}
    for problem in checkup.problems:
        if left[problem.kind]:
            left[problem.kind] -= 1
            lines[problem.kind].append(on_one_line(f"  {problem.path}: {problem.reason}"))
    for kind, count in kinds.items():
        print(f"{kind}: {count}")
        print("\n".join(lines[kind]))
        if count > SHOWN:
            print(f"  ... and {count - SHOWN} more (--json has all)")


if __name__ == "__main__":
    sys.exit(main())
