"""A data set converted once: files that are finished are kept, the others made, and the new list written.

    OUT/.converted/settings.json    settings that every file in OUT was made with
    OUT/.converted/records.jsonl    one line per finished file, appended when it has its name and its bytes are on the disk
    OUT/.converted/making           files being written

A process killed at any moment leaves no more than an unfinished file in `making` and half a line, which are left out.

A folder with one subfolder per class becomes such a folder. Of a list LISTS/train.csv the files go to OUT/train, in the
folders that they have below what is common to all, and OUT/train.csv has the lines of the old list with the new paths.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av

from revit.common.data.formats.base import ListRequest
from revit.common.data.label_names import read_label_names
from revit.common.data.lists import SampleList
from revit.common.system.errors import UserError, reason_of
from revit.common.system.files import locked, write_json, write_lines
from revit.common.system.log import progress
from revit.video.data.convert.clip import ENCODER, ConvertSettings
from revit.video.data.convert.worker import Record, convert, convert_all
from revit.video.data.decode.opening import DecodeError
from revit.video.data.lists import read_clips

HIDDEN = ".converted"  # readers of folders leave out what begins with a dot
SPLITS = ("train", "val", "test")
MOST_READ = 32
"""Pairs of files that are read to measure what converting gained."""


@dataclass(frozen=True)
class ConvertPlan:
    """The new files of a list or a folder."""

    samples: SampleList
    out: Path
    """Absolute."""
    is_tree: bool
    stem: str
    """Name of the new list, without its end."""
    separator: str
    names: Mapping[str, str]
    """Absolute path of each source, in the order of the list -> path from `out`."""

    @property
    def list_path(self) -> Path:
        """New value of `data.source`."""
        return self.out if self.is_tree else self.out / f"{self.stem}.csv"

    def beside(self, name: str) -> Path:
        """Return the path of a text that goes with the list: `classes.txt` (position = number) or `broken.txt`."""
        return self.out / (name if self.is_tree else f"{self.stem}_{name}")

    def write(self, broken: Mapping[str, str]) -> None:
        """Write the list without the broken sources (path -> reason), the class names if there are any, and the broken ones."""
        names = self.samples.names
        if not self.is_tree:
            between = {"\\t": "\t"}.get(self.separator, self.separator)
            lines = (
                f"{self.out / self.names[source]}{between}{label}\n"
                for source, label in self._rows()
                if source not in broken
            )
            write_lines(self.list_path, lines)
        if names is not None:
            write_lines(self.beside("classes.txt"), [f"{name}\n" for name in names])
        write_lines(self.beside("broken.txt"), [f"{source}: {reason}\n" for source, reason in broken.items()])

    def keys(self, broken: Collection[str]) -> list[str]:
        """List the keys to set so that the new files are read with the class numbers that the old ones have."""
        split = self.stem if self.stem in SPLITS else "|".join(SPLITS)
        keys = [f"data.source.{split}={self.list_path}"]
        kept = {label for source, label in self._rows() if source not in broken}
        # A folder numbers its classes by itself, and otherwise if one has no clip left.
        if self.samples.names is not None and (not self.is_tree or kept != {row[1] for row in self._rows()}):
            keys.append(f"data.source.label_names={self.beside('classes.txt')}")
        if not self.is_tree and self.separator != " ":
            keys.append(f"data.source.separator='{self.separator}'")
        return [*keys, "data.source.several_labels=true"] if self.samples.several else keys

    def _rows(self) -> Iterator[tuple[str, str]]:
        """Yield the source and the label of each sample as lists say it; several labels by their numbers, as names may hold
        signs that join them."""
        names = self.samples.names
        for position in range(len(self.samples)):
            named = names is not None and not self.samples.several
            said = self.samples.class_names(position) if named else self.samples.label_text(position)
            yield os.path.abspath(self.samples.path(position)), said


def plan_conversion(
    where: str,
    out: str,
    *,
    separator: str = " ",
    prefix: str = "",
    label_names: str | None = None,
    several_labels: bool = False,
) -> ConvertPlan:
    """Read the list or folder `where`, as `data.source` would. UserError if it is faulty, `out` is in it, or it in `out`."""
    names = read_label_names(label_names) if label_names else None
    request = ListRequest(where, separator=separator, prefix=prefix, names=names, several=several_labels)
    samples = read_clips(request)
    if samples.segments is not None or type(samples) is not SampleList:
        kind = "members of tar files" if samples.segments is None else "segments of longer files"
        raise UserError(
            f"{where}: its clips are {kind}; convert their files first, and write their list or tar files anew"
        )
    is_tree = os.path.isdir(where)
    sources = list(dict.fromkeys(os.path.abspath(samples.path(place)) for place in range(len(samples))))
    if is_tree and _holds(where, out):
        raise UserError(f"--out {out} is inside {where}, the clips to convert; choose a folder beside it")
    inside = next((source for source in sources if _holds(out, source)), None)
    if inside is not None:
        raise UserError(f"{inside}, one of the clips to convert, is inside --out {out}; choose a folder without them")
    if is_tree:
        stem, below, root = Path(os.path.abspath(where)).name, "", os.path.abspath(where)
    else:
        stem = below = Path(where).stem
        root = os.path.commonpath([os.path.dirname(source) for source in sources])
    old = [os.path.relpath(source, root) for source in sources]
    new = [os.path.splitext(name)[0] + ".mp4" for name in old]
    times = Counter(new)  # .mp4 goes behind the old end where two files would become one
    targets = [one if times[one] == 1 else f"{name}.mp4" for name, one in zip(old, new)]
    targets = [os.path.join(below, name) for name in targets]
    return ConvertPlan(samples, Path(os.path.abspath(out)), is_tree, stem, separator, dict(zip(sources, targets)))


def _holds(folder: str, path: str) -> bool:
    """Tell whether `path` is `folder` or lies in it, links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def convert_data_set(plan: ConvertPlan, settings: ConvertSettings, num_workers: int) -> dict[str, Any]:
    """Convert what is not finished yet, write the new list, and return what `convert_clips.py --json` writes.

    Killed at any moment, the same call goes on. UserError: no encoder; the folder is another's (see `_opened`); the disk is
    full; not one clip could be converted.
    """
    if ENCODER not in av.codecs_available:
        version = av.__version__
        raise UserError(f"the FFmpeg of this PyAV ({version}) has no {ENCODER}; pip install --only-binary av av")
    begin = time.monotonic()
    with _opened(plan.out, settings) as making:
        records = _finished(plan)
        num_there, broken = len(records), _convert_missing(plan, settings, making, records, num_workers)
        seconds = time.monotonic() - begin
        if not records:
            source, reason = next(iter(broken.items()))
            first = f"the first, {source}: {reason}"
            raise UserError(f"{plan.samples.source}: none of its {len(broken)} clips can be converted; {first}")
        plan.write(broken)
        pairs = [(source, str(plan.out / name)) for source, name in plan.names.items() if source in records]
        reading = measure_reading(pairs)
    return {
        "data": plan.samples.source,
        "out": str(plan.list_path),
        "set": plan.keys(broken),
        "settings": settings.fingerprint(),
        "files": {
            "listed": len(plan.samples),
            "distinct": len(plan.names),
            "converted": len(records) - num_there,
            "already_there": num_there,
            "broken": len(broken),
        },
        "bytes": {
            "before": sum(record.size for record in records.values()),
            "after": sum(record.bytes for record in records.values()),
        },
        "smallest_psnr": min(record.psnr for record in records.values()),
        "reading": reading,
        "broken": [{"path": path, "reason": reason} for path, reason in broken.items()],
        "seconds": round(seconds, 3),
    }


def _convert_missing(
    plan: ConvertPlan, settings: ConvertSettings, making: Path, records: dict[str, Record], num_workers: int
) -> dict[str, str]:
    """Convert the sources that have no record and add theirs, in the folder too; return the broken ones' reasons."""
    left = {source: name for source, name in plan.names.items() if source not in records}
    how = partial(convert, settings=settings, out=plan.out, making=making)
    path, broken = _records_of(plan), dict[str, str]()
    with progress("Converting clips", len(plan.names)) as update_bar:
        update_bar(advance=len(records))
        for source, answer in convert_all(left, how, num_workers):
            if isinstance(answer, Record):
                with _writing(path), open(path, "ab") as file:
                    file.write(json.dumps(asdict(answer)).encode() + b"\n")
                records[source] = answer
            else:
                broken[source] = answer
                with contextlib.suppress(OSError):  # what was made of it when it was whole
                    (plan.out / left[source]).unlink()
            update_bar(note=f"{len(broken)} broken" if broken else None)
    return {source: broken[source] for source in left if source in broken}


def _records_of(plan: ConvertPlan) -> Path:
    return plan.out / HIDDEN / "records.jsonl"


def _finished(plan: ConvertPlan) -> dict[str, Record]:
    """Read the records of the plan's files that are there, made from their sources as these are now, by source."""
    records, path, line = dict[str, Record](), _records_of(plan), "\n"
    with _writing(path), open(path, "a+", encoding="utf-8") as file:
        file.seek(0)
        for line in file:
            with contextlib.suppress(ValueError, TypeError):  # half a line of a killed process
                record = Record(**json.loads(line))
                records[record.name] = record
        if not line.endswith("\n"):
            file.write("\n")
    found = {source: records[name] for source, name in plan.names.items() if name in records}
    return {source: record for source, record in found.items() if _is_current(plan.out, record, source)}


def _is_current(out: Path, record: Record, source: str) -> bool:
    """Tell whether a recorded file is there, made from this source as it is now (or was when it was removed).

    UserError if it was made from another file, which it would replace.
    """
    with contextlib.suppress(OSError):
        if (out / record.name).stat().st_size != record.bytes:
            return False
        if record.source != source:
            it = f"{out / record.name} was made from {record.source}, and {source} would replace it"
            raise UserError(f"{it}; choose another --out for this list")
        try:
            now = os.stat(source)
        except FileNotFoundError:  # removed once it was converted
            return True
        return (now.st_size, now.st_mtime_ns) == (record.size, record.mtime_ns)
    return False


@contextlib.contextmanager
def _opened(out: Path, settings: ConvertSettings) -> Iterator[Path]:
    """Make the folder or go on in it; gives the folder for files being written.

    UserError: another process is at it, it is of other settings or not of a conversion, or cannot be written to.
    """
    hidden = out / HIDDEN
    making, path, wanted = hidden / "making", hidden / "settings.json", settings.fingerprint()
    with _writing(out):
        if not hidden.is_dir() and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: not empty, and no folder of converted clips; choose a new folder")
        hidden.mkdir(parents=True, exist_ok=True)
    with locked(hidden / "lock", "another process is converting into it"):
        if not path.exists():
            write_json(path, wanted)
        found = json.loads(path.read_text(encoding="utf-8"))
        changed = [f"{key} {found.get(key)} -> {wanted[key]}" for key in wanted if found.get(key) != wanted[key]]
        if changed:
            others = f"{out} holds clips converted with other settings ({', '.join(changed)})"
            raise UserError(f"{others}; choose a new folder, or the old settings to go on")
        try:
            with _writing(out):
                shutil.rmtree(making, ignore_errors=True)  # a killed process's
                making.mkdir()
            yield making
        finally:
            shutil.rmtree(making, ignore_errors=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the system's errors about `path` into a UserError."""
    try:
        yield
    except OSError as error:
        reason = f"cannot be written to ({reason_of(error).lower()})"
        raise UserError(f"{path}: {reason}; the same command goes on once that is put right") from error


def measure_reading(pairs: Sequence[tuple[str, str]], seconds: float = 10.0) -> dict[str, float] | None:
    """Return clips per second before and after of (source, new file) pairs; None where no pair can be read.

    One clip is 8 frames of 224 pixels, one in 32, from file to tensor, in processor time of this process, so that neither other
    programs nor a cold disk are measured. Up to `MOST_READ` pairs spread over the list; the median of several rounds per file.
    """
    # Here, as they bring torch along, which converting does without.
    import torch

    from revit.common.timing.clock import time_rounds
    from revit.video.data.clips import load_views
    from revit.video.data.decode.reader import FrameReader
    from revit.video.data.options import ONE_VIEW, ClipOptions

    options, reader = ClipOptions(), FrameReader("auto", 0)
    calls: dict[tuple[str, bool], Callable[[], Any]] = {}
    for pair in pairs[:: max(1, len(pairs) // MOST_READ)][:MOST_READ]:
        both = [partial(load_views, path, options, ONE_VIEW, reader) for path in pair]
        with contextlib.suppress(DecodeError):  # a source that was removed since
            for load in both:  # fills the system's file cache
                load()
            calls |= {(pair[0], False): both[0], (pair[0], True): both[1]}
    if not calls:
        return None
    times = time_rounds(calls, torch.device("cpu"), rounds=9, seconds=seconds, fewest=3)
    medians = {key: statistics.median(found.processor) for key, found in times.items()}
    before, after = (sum(medians[key] for key in calls if key[1] is is_new) for is_new in (False, True))
    num_files = len(calls) // 2
    return {
        "before_per_second": num_files / before,
        "after_per_second": num_files / after,
        "speed_up": before / after,
        "files": num_files,
    }
