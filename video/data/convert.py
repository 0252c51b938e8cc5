"""A data set converted once, to files that are small and quick to read: which are left to do, and what came of all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import av

from revit.common.system.errors import UserError
from revit.common.system.log import progress
from revit.video.data.convert_options import ENCODER, ConvertSettings
from revit.video.data.convert_plan import ConvertPlan
from revit.video.data.convert_pool import convert_all
from revit.video.data.convert_records import Record, Records, opened
from revit.video.data.convert_worker import Broken, Job

if TYPE_CHECKING:
    from revit.video.data.convert_speed import ReadingSpeed


@dataclass(frozen=True)
class Converted:
    """What a conversion came to."""

    plan: ConvertPlan
    settings: ConvertSettings
    records: Mapping[str, Record]
    """Source -> its file; every clip that is whole."""
    broken: Mapping[str, str]
    """Source -> reason."""
    num_new: int
    """Files made by this call; the others were there."""
    seconds: float
    """Of converting, by the clock."""
    reading: ReadingSpeed | None

    @property
    def bytes_before(self) -> int:
        """Of the sources that were converted."""
        return sum(record.size for record in self.records.values())

    @property
    def bytes_after(self) -> int:
        """Of the new files."""
        return sum(record.bytes for record in self.records.values())

    def as_json(self) -> dict[str, Any]:
        """What `convert_clips.py --json` writes."""
        return {
            "data": self.plan.samples.source,
            "out": str(self.plan.list_path),
            "set": self.plan.keys(self.broken),
            "settings": self.settings.fingerprint(),
            "files": {
                "listed": len(self.plan.samples),
                "distinct": len(self.plan.sources),
                "converted": self.num_new,
                "already_there": len(self.records) - self.num_new,
                "broken": len(self.broken),
            },
            "bytes": {"before": self.bytes_before, "after": self.bytes_after},
            "smallest_psnr": min(record.psnr for record in self.records.values()),
            "reading": None if self.reading is None else asdict(self.reading),
            "broken": [{"path": path, "reason": reason} for path, reason in self.broken.items()],
            "seconds": round(self.seconds, 3),
        }


def convert_data_set(plan: ConvertPlan, settings: ConvertSettings, num_workers: int) -> Converted:
    """Converts what is not finished yet and writes the new list. Killed at any moment, the same call goes on.

    Raises:
        UserError: no encoder; see `opened`; the disk is full; not one clip could be converted.
    """
    if ENCODER not in av.codecs_available:
        raise UserError(
            f"the FFmpeg of this PyAV ({av.__version__}) has no {ENCODER}; pip install --only-binary av av"
        )
    begin = time.monotonic()
    with opened(plan.out, settings) as folder:
        done: dict[str, Record] = {}
        for source in plan.sources:
            if (record := folder.finished(plan.names[source], source)) is not None:
                done[source] = record
        new, broken = _convert(plan, settings, folder, num_workers, len(done))
        seconds = time.monotonic() - begin
        records = {source: found for source in plan.sources if (found := done.get(source) or new.get(source))}
        in_order = {source: broken[source] for source in plan.sources if source in broken}
        if not records:
            first = next(iter(in_order.items()))
            raise UserError(
                f"{plan.samples.source}: none of its {len(in_order)} clips can be converted; the first, {first[0]}: {first[1]}"
            )
        plan.write(in_order)
        # Here, as it brings torch along, which converting does without.
        from revit.video.data.convert_speed import measure_reading

        reading = measure_reading([(source, str(plan.out / one.name)) for source, one in records.items()])
    return Converted(plan, settings, records, in_order, len(new), seconds, reading)


def _convert(
    plan: ConvertPlan, settings: ConvertSettings, folder: Records, num_workers: int, num_done: int
) -> tuple[dict[str, Record], dict[str, str]]:
    """The records of new files, and reasons why others are missing."""
    left = [source for source in plan.sources if folder.finished(plan.names[source], source) is None]
    jobs = (Job(source, plan.names[source], str(plan.out), str(folder.making), settings) for source in left)
    new: dict[str, Record] = {}
    broken: dict[str, str] = {}
    with progress("Converting clips", len(plan.sources)) as update_bar:
        update_bar(advance=num_done)
        for job, answer in convert_all(jobs, num_workers):
            if isinstance(answer, Broken):
                broken[job.source] = answer.reason
                with contextlib.suppress(OSError):  # what was made of it when it was whole
                    (plan.out / job.name).unlink()
            else:
                folder.add(answer)
                new[job.source] = answer
            update_bar(note=f"{len(broken)} broken" if broken else None)
    return new, broken
